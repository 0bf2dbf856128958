//! How a request ends: with the upstream's answer, with the proxy's own, cut
//! short, or given up; and its accounts.

use super::{Chosen, Fate, Stream};
use crate::clock;
use crate::edge;
use crate::exchange::{Body, Downstream, DownstreamError, Failure};
use crate::flags::ResponseFlag;
use crate::headers::{HeaderId, Headers};
use crate::local_reply::{LocalReply, RequestForm, UpstreamError};
use crate::logic::mutation;
use crate::model::WeightedTarget;
use crate::pipes::Piece;
use crate::record::LogEnds;
use crate::tap::Trace;

impl<D: Downstream> Stream<'_, D> {
    /// Ends a request that has no answer and will get none from upstream;
    /// `in_flight`: an attempt was being made.
    pub(super) async fn gave_up(
        &mut self,
        failure: Failure,
        chosen: Chosen<'_>,
        in_flight: bool,
    ) -> Fate {
        match failure {
            Failure::Downstream(DownstreamError::Malformed(e)) => {
                self.connection.shard().downstream_cx_protocol_error.inc();
                self.reply(e.reply(), Some(chosen)).await
            }
            Failure::Downstream(e) => {
                self.record.left(e);
                self.connection.shard().downstream_rq_rx_reset.inc();
                Fate::Abort
            }
            Failure::Upstream(e) => self.fail(e, Some(chosen), self.record.attempts > 1).await,
            Failure::Idle => {
                self.connection.shard().downstream_rq_idle_timeout.inc();
                self.reply(LocalReply::stream_idle(self.body.complete), Some(chosen)).await
            }
            Failure::Timeout => {
                let reply = LocalReply::route_timeout();
                if let Some(target) = chosen.target.filter(|_| in_flight) {
                    self.count_timeout(target);
                    if !self.body.begun {
                        let stats = target.cluster.stats.shard(self.connection.worker.shard);
                        stats.external.record(reply.status, None);
                    }
                }
                self.reply(reply, Some(chosen)).await
            }
        }
    }

    /// Counts that the route's timeout ended an attempt.
    fn count_timeout(&self, target: &WeightedTarget) {
        let shard = self.connection.worker.shard;
        target.cluster.stats.shard(shard).upstream_rq_timeout.inc();
    }

    /// An answer that was cut after its head had left. What came before the cut
    /// still goes to the client.
    pub(super) async fn cut(
        &mut self,
        failure: Failure,
        chosen: Chosen<'_>,
        target: &WeightedTarget,
    ) -> Fate {
        let shard = self.connection.shard();
        match failure {
            Failure::Downstream(e) => {
                self.record.left(e);
                shard.downstream_rq_rx_reset.inc();
                self.record.reset = true;
                self.down.abort();
                self.finished(chosen, target);
                return Fate::Abort;
            }
            Failure::Upstream(e) => {
                self.record.flags.set(e.flag());
                self.record.details = e.details("after", None).into();
            }
            Failure::Idle => {
                self.record.flags.set(ResponseFlag::StreamIdleTimeout);
                self.record.details = "stream_idle_timeout".into();
                shard.downstream_rq_idle_timeout.inc();
            }
            Failure::Timeout => {
                self.record.flags.set(ResponseFlag::UpstreamRequestTimeout);
                self.record.details = "response_timeout".into();
                self.count_timeout(target);
            }
        }
        // Envoy's own reset comes back to it from its codec.
        shard.downstream_rq_tx_reset.inc();
        shard.downstream_rq_rx_reset.inc();
        self.record.reset = true;
        // HTTP/2 drops what is queued when it resets: its connection's task gets
        // one turn to write.
        let _ = std::future::poll_fn(|cx| std::task::Poll::Ready(self.down.poll_flush(cx))).await;
        tokio::task::yield_now().await;
        self.down.abort();
        self.finished(chosen, target);
        Fate::Close
    }

    /// Counts a final answer of the cluster.
    pub(super) fn finished(&self, chosen: Chosen<'_>, target: &WeightedTarget) {
        let stats = target.cluster.stats.shard(self.connection.worker.shard);
        let elapsed = self.body.completed.map(clock::since);
        if !self.record.counted {
            stats.external.record(self.record.status, elapsed);
        }
        let grpc_ok = self.body.grpc_status.is_none_or(|status| status == 0);
        self.seldon(chosen, self.record.status < 400 && grpc_ok);
    }

    /// Counts a request in the metrics that Seldon's dashboards ask for.
    fn seldon(&self, chosen: Chosen<'_>, ok: bool) {
        let Some(target) = chosen.target else { return };
        let worker = &self.connection.worker;
        let series = target.series.get_or_init(|| {
            let (experiment, model) = chosen.route.seldon_names(target);
            worker.plane.seldon.handle(&experiment, &model)
        });
        series.shard(worker.shard).record(ok, clock::since(self.record.started));
    }

    /// Answers for an upstream that did not.
    pub(super) async fn fail(
        &mut self,
        error: UpstreamError,
        chosen: Option<Chosen<'_>>,
        retried: bool,
    ) -> Fate {
        let mut reply = error.reply(retried);
        self.record.transport = error.transport().words(self.record.upstream);
        let begun = self.body.begun;
        if self.record.transport.is_some() || begun {
            let when = if begun { "after" } else { "before" };
            reply.details = error.details(when, self.record.transport.as_deref()).into();
        }
        let counts = error != UpstreamError::NoCluster && !begun;
        let target = chosen.and_then(|c| c.target).filter(|_| counts);
        if let Some(target) = target {
            let stats = target.cluster.stats.shard(self.connection.worker.shard);
            stats.external.record(reply.status, None);
        }
        if let Some(chosen) = chosen {
            self.seldon(chosen, false);
        }
        self.reply(reply, chosen).await
    }

    /// Answers for a server that was asked for a websocket and made nothing of it:
    /// its fields, without its body.
    #[cold]
    pub(super) async fn decline(&mut self, chosen: Chosen<'_>) -> Fate {
        self.seldon(chosen, false);
        let theirs = Box::new(std::mem::take(&mut self.answer.headers));
        let reply = LocalReply::handshake_failed(self.answer.status);
        self.reply_with(reply, Some(chosen), Some(theirs)).await
    }

    /// Appends a server's fields to an answer of the proxy's own.
    #[cold]
    fn append(&mut self, theirs: &Headers, grpc: bool) {
        let upgrade = edge::is_upgrade(theirs);
        for field in theirs.iter() {
            let wanted = match field.id {
                HeaderId::ContentLength
                | HeaderId::TransferEncoding
                | HeaderId::ProxyConnection => false,
                HeaderId::Connection | HeaderId::Upgrade => upgrade,
                HeaderId::ContentType => grpc,
                _ => true,
            };
            if wanted {
                self.answer.headers.push(field.name, field.value);
            }
        }
    }

    /// Sends an answer of the proxy's own.
    pub(super) async fn reply(&mut self, reply: LocalReply, chosen: Option<Chosen<'_>>) -> Fate {
        self.reply_with(reply, chosen, None).await
    }

    async fn reply_with(
        &mut self,
        reply: LocalReply,
        chosen: Option<Chosen<'_>>,
        theirs: Option<Box<Headers>>,
    ) -> Fate {
        for flag in reply.flags.iter() {
            self.record.flags.set(flag);
        }
        let form = RequestForm {
            grpc: edge::wants_grpc_reply(self.head),
            head: self.head.method() == b"HEAD",
        };
        reply.begin(form, self.answer);
        if let Some(chosen) = chosen {
            let mut scratch = Vec::new();
            let context = self.record.context(self.connection, Some(self.head), None);
            let levels = chosen.response_levels(self.listener);
            mutation::apply_response(
                self.answer,
                levels.into_iter().flatten(),
                &context,
                &mut scratch,
            );
        }
        if let Some(theirs) = &theirs {
            self.append(theirs, form.grpc);
        }
        let body = reply.finish(form, &self.connection.worker.date(), self.answer);
        self.record.details = reply.details;
        self.record.status = self.answer.status;
        let close = reply.close
            || !self.received.keep_alive
            || (!self.body.complete && !self.received.http2)
            || self.connection.draining();
        self.record.replied = true;
        self.record.early = !self.body.complete;
        let empty = body.is_empty();
        let kind = if empty { Body::Empty } else { Body::Length(body.len() as u64) };
        // Who grants an upgrade does not speak of the connection's end.
        let told = close && theirs.is_none_or(|theirs| !edge::is_upgrade(&theirs));
        if self.down.send_head(self.answer, kind, told).is_err() {
            return Fate::Abort;
        }
        if !empty {
            self.record.sent = body.len() as u64;
            self.down.send_data(Piece::Memory(body));
            self.down.finish(None);
        }
        let flushed = std::future::poll_fn(|cx| self.down.poll_flush(cx)).await;
        match flushed {
            Ok(()) if close => Fate::Close,
            Ok(()) => Fate::KeepAlive,
            Err(_) => Fate::Abort,
        }
    }

    /// Hands the request to the tap if it, or its answer, asks for that.
    fn tap(&mut self) {
        let Some(bodies) = self.body.tap.take() else { return };
        let worker = &self.connection.worker;
        if let Some(tap) = &self.listener.config.tap {
            let response = self.record.replied.then_some(&*self.answer);
            if tap.wants_request(self.head) || response.is_some_and(|r| tap.wants_response(r)) {
                let trace = Trace {
                    request: self.head,
                    request_body: &bodies.request,
                    request_trailers: None,
                    response,
                    response_body: &bodies.response,
                    response_trailers: self.body.answer_trailers.as_ref(),
                };
                worker.taps.submit(tap, worker.draw(), &trace);
                self.connection.shard().tap_rq_tapped.inc();
            }
        }
        worker.put_tap(bodies);
    }

    /// Statistics, access logs and taps of a request that has ended.
    pub(super) fn account(&mut self) {
        let shard = self.connection.shard();
        if self.record.replied {
            if !self.record.counted {
                shard.replied(self.record.status);
            }
            shard.downstream_rq_time.record(clock::since(self.record.started));
            if self.record.early {
                shard.downstream_rq_response_before_rq_complete.inc();
            }
            // The connection, or the stream, ends under the rest of the request.
            if !self.body.complete && !self.record.reset {
                shard.downstream_rq_rx_reset.inc();
            }
        }
        self.tap();
        self.record.received = self.body.bytes;
        let ends = LogEnds {
            request: self.head,
            response: self.answer,
            trailers: self.body.answer_trailers.as_ref(),
            completed: self.body.completed,
        };
        self.record.log(self.connection, self.listener, ends);
    }
}
