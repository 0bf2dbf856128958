//! One request's way, top-down: header filter, route, target, attempts, answer,
//! accounts.
//!
//! [`handle`] is called by the HTTP/1 and HTTP/2 ends alike with a parsed head;
//! it loads the published configuration once and keeps it to the end.

mod endings;

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::attempt::{Attempt, Ended, Ends, Verdict};
use crate::clock;
use crate::downstream::Connection;
use crate::edge;
use crate::exchange::{Body, Downstream, Failure};
use crate::flags::ResponseFlag;
use crate::headers::{HeaderId, RequestHead, ResponseHead};
use crate::local_reply::{LocalReply, UpstreamError};
use crate::logic::retry::Outcome;
use crate::logic::rewrite::GrpcRename;
use crate::logic::{header_filter, mutation, rewrite};
use crate::mirror;
use crate::model::{
    Action, Cluster, Forward, HeaderMutations, Listener, Route, UpstreamProtocol, VirtualHost,
    WeightedTarget,
};
use crate::record::Record;
use crate::request_body::RequestBody;
use crate::retrying::Retrying;
use crate::stats::Shard;
use crate::timer::{IdleTimer, RouteTimeout};

/// What the protocol end knows of a request beside its head.
#[derive(Debug, Default)]
pub(crate) struct Received {
    /// Nothing follows the head.
    pub(crate) complete: bool,
    /// It came by HTTP/2.
    pub(crate) http2: bool,
    /// HTTP/1: the client wants to keep the connection.
    pub(crate) keep_alive: bool,
    /// HTTP/1: it asks for an upgrade.
    pub(crate) upgrade: bool,
    /// The head names its host, if only by an empty value.
    pub(crate) has_host: bool,
}

/// What becomes of an HTTP/1 connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// The next request may come.
    KeepAlive,
    /// Everything was sent; close, gracefully.
    Close,
    /// Close at once: the client is gone, or must notice that the answer is cut.
    Abort,
}

/// Serves one request to its end.
pub(crate) async fn handle<D: Downstream>(
    connection: &Connection,
    listener: &Listener,
    down: &mut D,
    head: &mut RequestHead,
    received: Received,
    idle: &mut IdleTimer,
) -> Fate {
    let worker = &connection.worker;
    worker.streams.set(worker.streams.get() + 1);
    let shard = connection.shard();
    shard.downstream_rq_active.inc();
    idle.restart(listener.config.stream_idle_timeout);
    let mut answer = worker.take_answer();
    let record = Record::new(received.http2);
    let mut stream = Stream {
        connection,
        listener,
        down,
        head,
        answer: &mut answer,
        body: RequestBody::new(received.complete),
        received,
        idle,
        record,
    };
    if listener.config.tap.is_some() {
        stream.body.tap = Some(worker.take_tap());
    }
    stream.body.keep_trailers =
        listener.config.tap.is_some() || worker.logs.borrow().wants(&listener.config.access_logs);
    let fate = stream.run().await;
    stream.account();
    worker.put_answer(answer);
    shard.downstream_rq_active.dec();
    worker.streams.set(worker.streams.get() - 1);
    fate
}

/// The route chosen for a request.
#[derive(Clone, Copy)]
struct Chosen<'a> {
    host: &'a VirtualHost,
    route: &'a Route,
    /// None for a direct response.
    target: Option<&'a WeightedTarget>,
}

impl<'a> Chosen<'a> {
    fn request_levels(self, listener: &'a Listener) -> [Option<&'a HeaderMutations>; 4] {
        [
            self.target.map(|t| &t.request_headers),
            self.route.request_headers.as_deref(),
            Some(&self.host.request_headers),
            Some(&listener.routes.request_headers),
        ]
    }

    fn response_levels(self, listener: &'a Listener) -> [Option<&'a HeaderMutations>; 4] {
        [
            self.target.map(|t| &t.response_headers),
            self.route.response_headers.as_deref(),
            Some(&self.host.response_headers),
            Some(&listener.routes.response_headers),
        ]
    }
}

/// Reads one word of each cache line that a request for this target needs later
/// on: for a model that was quiet they are misses, and asked for together they
/// cost little more than one.
fn touch(target: &WeightedTarget, shard: Shard) {
    std::hint::black_box((
        target.request_headers.add.len(),
        target.response_headers.add.len(),
        target.rewrite_model.is_some(),
    ));
    if let Some(series) = target.series.get() {
        series.touch();
    }
    target.cluster.stats.touch(shard);
}

/// A request in progress.
struct Stream<'a, D> {
    connection: &'a Connection,
    listener: &'a Listener,
    down: &'a mut D,
    head: &'a mut RequestHead,
    answer: &'a mut ResponseHead,
    body: RequestBody,
    received: Received,
    idle: &'a mut IdleTimer,
    record: Record<'a>,
}

impl<'s, D: Downstream> Stream<'s, D> {
    async fn run(&mut self) -> Fate {
        let listener = self.listener;
        if let Err(refusal) = edge::admit(self.head, self.received.has_host) {
            return self.refuse(refusal).await;
        }
        if self.received.upgrade {
            edge::upgrade_to_upstream(self.head);
            if let Some(chosen) = self.choose(listener) {
                return self.refuse_upgrade(chosen).await;
            }
        } else {
            edge::to_upstream(self.head);
        }
        if listener.config.header_filter
            && header_filter::apply(self.head) == header_filter::Outcome::ScriptError
        {
            self.connection.shard().lua_errors.inc();
        }
        self.connection.shard().rq_total.inc();
        let routable = edge::is_routable(self.head) && !self.head.path().is_empty();
        let Some(chosen) = self.choose(listener).filter(|_| routable) else {
            self.connection.shard().no_route.inc();
            self.record.flags.set(ResponseFlag::NoRoute);
            return self.no_route().await;
        };
        if self.received.upgrade {
            // Envoy asks whether it may be upgraded before its filters run, found
            // no route by then, and passes it on.
            if self.connection.worker.refuse_ambiguous {
                return self.refuse_upgrade(chosen).await;
            }
            self.body.upgrade = true;
        }
        self.record.chose(chosen.route, chosen.target);
        match &chosen.route.action {
            Action::Direct(direct) => {
                self.connection.shard().rq_direct_response.inc();
                let mut reply = LocalReply::new(direct.status, "", "direct_response");
                reply.body = direct.body.clone();
                self.reply(reply, Some(chosen)).await
            }
            Action::Forward(forward) => self.forward(chosen, forward).await,
        }
    }

    /// The first route that matches, and one of its targets.
    fn choose<'l>(&self, listener: &'l Listener) -> Option<Chosen<'l>> {
        let worker = &self.connection.worker;
        let (host, route) = listener.routes.find(self.head, worker.draw())?;
        let target = match &route.action {
            Action::Forward(forward) => Some(forward.choose(worker.draw())?),
            Action::Direct(_) => None,
        };
        if let Some(target) = target {
            touch(target, worker.shard);
        }
        Some(Chosen { host, route, target })
    }

    async fn no_route(&mut self) -> Fate {
        let mut reply = LocalReply::no_route();
        // What follows a wish for an upgrade is no request.
        reply.close |= self.received.upgrade;
        self.reply(reply, None).await
    }

    async fn refuse_upgrade(&mut self, chosen: Chosen<'s>) -> Fate {
        self.record.chose(chosen.route, chosen.target);
        self.connection.shard().downstream_rq_ws_on_non_ws_route.inc();
        self.reply(LocalReply::upgrade_refused(), Some(chosen)).await
    }

    /// Refuses a request that is not to be routed at all.
    async fn refuse(&mut self, refusal: edge::Refusal) -> Fate {
        let shard = self.connection.shard();
        // An HTTP/1 request gets its scheme only now.
        self.record.schemeless = !self.received.http2;
        self.record.nameless = !self.received.has_host;
        match refusal {
            edge::Refusal::PathNotAbsolute => shard.downstream_rq_non_relative_path.inc(),
            edge::Refusal::Fragment => shard.downstream_rq_failed_path_normalization.inc(),
            edge::Refusal::MissingHost | edge::Refusal::QueryWithoutContentType => {}
        }
        self.reply(refusal.reply(), None).await
    }

    async fn forward(&mut self, chosen: Chosen<'_>, forward: &Forward) -> Fate {
        let Some(target) = chosen.target else {
            return self.no_route().await;
        };
        let Some(cluster) = target.cluster.load() else {
            self.connection.shard().no_cluster.inc();
            return self.fail(UpstreamError::NoCluster, Some(chosen), false).await;
        };
        let unusual = forward.unusual.as_deref();
        if let Some(limit) = unusual.and_then(|unusual| unusual.idle_timeout) {
            self.idle.restart(limit);
        }
        self.prepare(chosen, forward);
        self.body.keep_for_retry(forward.retry.is_some());
        self.body.timeout = RouteTimeout::new(forward.timeout);
        self.mirror(forward);
        let fate = self.attempts(chosen, forward, &cluster).await;
        if self.body.abandoned {
            let worker = &self.connection.worker;
            target.cluster.stats.shard(worker.shard).retry_or_shadow_abandoned.inc();
        }
        fate
    }

    /// The request as the upstream is to see it.
    fn prepare(&mut self, chosen: Chosen<'_>, forward: &Forward) {
        let levels = chosen.request_levels(self.listener);
        let mut scratch = Vec::new();
        let context = self.record.context(self.connection, None, None);
        mutation::apply_request(self.head, levels.into_iter().flatten(), &context, &mut scratch);
        if let Some(unusual) = &forward.unusual {
            if let Some(prefix) = &unusual.prefix_rewrite {
                let path = chosen.route.matcher.path.replace_prefix(self.head.path(), prefix);
                self.head.set_path(&path);
            }
            if let Some(host) = &unusual.host_rewrite {
                self.head.set_authority(host);
            }
        }
        let Some(model) = chosen.target.and_then(|t| t.rewrite_model.as_deref()) else { return };
        if self.body.upgrade {
            // What follows is nobody's business.
        } else if self.head.is_grpc() && rewrite::is_named_method(self.head.path()) {
            self.head.headers.remove(HeaderId::ContentLength);
            self.body.rename = Some(GrpcRename::new(model));
        } else if let Some(path) = rewrite::path(self.head.path(), model) {
            self.head.set_path(&path);
        }
    }

    /// Starts the copies that the route asks for.
    fn mirror(&mut self, forward: &Forward) {
        let worker = &self.connection.worker;
        for policy in &forward.mirrors {
            let (numerator, denominator) = policy.fraction;
            let drawn = worker.draw() % u64::from(denominator.max(1)) < u64::from(numerator);
            if !drawn || policy.cluster.load().is_none() {
                continue;
            }
            let (tee, copy) = mirror::tee();
            self.body.add_tee(tee);
            mirror::start(
                worker,
                Arc::clone(policy.cluster.slot()),
                self.head,
                copy,
                &self.body,
                self.listener.config.stream_idle_timeout,
            );
        }
    }

    async fn attempts(
        &mut self,
        chosen: Chosen<'_>,
        forward: &Forward,
        cluster: &Arc<Cluster>,
    ) -> Fate {
        let Some(target) = chosen.target else { return Fate::Abort };
        let worker = Rc::clone(&self.connection.worker);
        let stats = target.cluster.stats.shard(worker.shard);
        let mut retries = Retrying::new(forward, target, cluster);
        loop {
            self.record.attempts += 1;
            let attempt = Attempt {
                worker: &worker,
                slot: target.cluster.slot(),
                cluster,
                head: self.head,
                answers: |stats| &stats.external,
            };
            let Some(host) = attempt.pick() else {
                stats.upstream_cx_none_healthy.inc();
                return self.fail(UpstreamError::NoHealthyHost, Some(chosen), false).await;
            };
            self.record.upstream = Some(host.address);
            self.record.transport = None;
            let mut ends = Ends {
                down: self.down,
                body: &mut self.body,
                answer: self.answer,
                idle: self.idle,
            };
            let record = &mut self.record;
            let tail = Tail { connection: self.connection, listener: self.listener, chosen };
            let keep_alive = self.received.keep_alive;
            let head = &*self.head;
            let mut pause = None;
            let ended = attempt
                .run(&host, &mut ends, |down, body, answer, kind| {
                    pause = retries.judge(Outcome::of_response(answer), body, &worker, record);
                    if pause.is_some() {
                        return Ok(Verdict::Retry);
                    }
                    if !body.upgrade {
                        tail.answer(record, head, body, answer);
                    } else if declines(head, answer, cluster) {
                        return Ok(Verdict::Decline);
                    } else if kind == Body::Tunnel {
                        tail.tunnel(record, head, answer);
                    } else {
                        tail.answer(record, head, body, answer);
                    }
                    let close = !keep_alive || !body.complete || tail.connection.draining();
                    record.close = close;
                    record.early = !body.complete;
                    down.send_head(answer, kind, close)?;
                    Ok(Verdict::Forward)
                })
                .await;
            match ended {
                Ended::Complete { sent, .. } => {
                    self.record.sent = sent;
                    self.finished(chosen, target);
                    return if self.record.close { Fate::Close } else { Fate::KeepAlive };
                }
                Ended::Retry { .. } => {}
                Ended::Declined => return self.decline(chosen).await,
                Ended::Failed { failure, started: true, sent } => {
                    self.record.sent = sent;
                    return self.cut(failure, chosen, target).await;
                }
                Ended::Failed { failure: Failure::Upstream(e), .. } => {
                    let outcome = Outcome::Reset(e.reset_kind());
                    pause = retries.judge(outcome, &self.body, &worker, &mut self.record);
                    if pause.is_none() {
                        return self.fail(e, Some(chosen), retries.made() > 0).await;
                    }
                    tracing::debug!(cluster = %target.cluster.name, "attempt failed, retrying: {e:?}");
                }
                Ended::Failed { failure, .. } => return self.gave_up(failure, chosen, true).await,
            }
            if let Some(failure) = self.wait(pause.unwrap_or_default()).await {
                return self.gave_up(failure, chosen, false).await;
            }
            retries.begin(&worker);
            self.body.rewind();
        }
    }

    /// Waits before a retry; says why there will be none.
    async fn wait(&mut self, pause: Duration) -> Option<Failure> {
        let mut pause = std::pin::pin!(tokio::time::sleep(pause));
        std::future::poll_fn(|cx| {
            use std::task::Poll;
            if let Poll::Ready(e) = self.body.poll_idle(self.down, cx) {
                return Poll::Ready(Some(Failure::Downstream(e)));
            }
            if self.body.timeout.poll_expired(self.body.completed, cx).is_ready() {
                return Poll::Ready(Some(Failure::Timeout));
            }
            std::future::Future::poll(pause.as_mut(), cx).map(|()| None)
        })
        .await
    }
}

/// True if a server was asked for a websocket and answered with neither 101
/// nor an error, to which Envoy answers itself (over HTTP/1).
#[cold]
fn declines(request: &RequestHead, answer: &ResponseHead, cluster: &Cluster) -> bool {
    cluster.protocol == UpstreamProtocol::Http1
        && answer.status != 101
        && answer.status < 400
        && edge::is_websocket(&request.headers)
}

/// What an answer's head needs from the request's route.
#[derive(Clone, Copy)]
struct Tail<'a> {
    connection: &'a Connection,
    listener: &'a Listener,
    chosen: Chosen<'a>,
}

impl Tail<'_> {
    /// The answer as the client is to see it.
    fn answer(
        &self,
        record: &mut Record<'_>,
        request: &RequestHead,
        body: &RequestBody,
        answer: &mut ResponseHead,
    ) {
        let service_time = body.completed.map(|at| clock::since(at).as_millis());
        edge::from_upstream(answer, service_time.and_then(|ms| u64::try_from(ms).ok()));
        self.finish(record, request, answer);
    }

    /// The head of an answer that grants an upgrade. It is counted now: who knows
    /// when it ends.
    #[cold]
    fn tunnel(&self, record: &mut Record<'_>, request: &RequestHead, answer: &mut ResponseHead) {
        let has_length = answer.headers.has(HeaderId::ContentLength)
            || answer.headers.has(HeaderId::TransferEncoding)
            || (100..200).contains(&answer.status);
        edge::upgrade_from_upstream(answer);
        self.finish(record, request, answer);
        if !has_length {
            answer.headers.push_known(HeaderId::ContentLength, b"content-length", b"0");
        }
        record.counted = true;
        self.connection.shard().replied(answer.status);
        if let Some(target) = self.chosen.target {
            let stats = target.cluster.stats.shard(self.connection.worker.shard);
            stats.external.record(answer.status, None);
        }
    }

    fn finish(&self, record: &mut Record<'_>, request: &RequestHead, answer: &mut ResponseHead) {
        let mut scratch = Vec::new();
        let levels = self.chosen.response_levels(self.listener);
        let context = record.context(self.connection, Some(request), None);
        mutation::apply_response(answer, levels.into_iter().flatten(), &context, &mut scratch);
        edge::to_downstream(answer, &self.connection.worker.date());
        record.status = answer.status;
        record.replied = true;
        record.details = "via_upstream".into();
        record.first_byte = Some(clock::now());
    }
}
