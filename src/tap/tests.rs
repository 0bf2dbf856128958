use super::*;

fn request() -> RequestHead {
    let mut head = RequestHead::default();
    head.set_authority(b"127.0.0.1:29101");
    head.set_path(b"/big?q");
    head.set_method(b"POST");
    head.headers
        .push(b"x-b", b"<>&'\"/\\ tab\there \xff\xc3\xa9 \xe2\x80\xa8 \xf0\x9f\x98\x80 caf\xe9");
    head
}

/// As Envoy 1.40 wrote it for the same request, but for the shortened lists.
#[test]
fn a_file_is_what_envoy_writes() {
    let request = request();
    let mut response = ResponseHead { status: 200, ..ResponseHead::default() };
    response.headers.push(b"server", b"envoy");
    let (empty, mut body) = (TapBody::default(), TapBody::default());
    body.push(b"hello");
    let mut trailers = Headers::default();
    trailers.push(b"grpc-status", b"0");
    let trace = Trace {
        request: &request,
        request_body: &empty,
        request_trailers: None,
        response: Some(&response),
        response_body: &body,
        response_trailers: Some(&trailers),
    };
    let want = r#"{
 "http_buffered_trace": {
  "request": {
   "headers": [
    {
     "key": ":authority",
     "value": "127.0.0.1:29101",
     "raw_value": ""
    },
    {
     "key": ":path",
     "value": "/big?q",
     "raw_value": ""
    },
    {
     "key": ":method",
     "value": "POST",
     "raw_value": ""
    },
    {
     "key": ":scheme",
     "value": "http",
     "raw_value": ""
    },
    {
     "key": "x-b",
     "value": "\u003c\u003e&'\"/\\ tab\there !é \u2028 😀 caf!",
     "raw_value": ""
    }
   ],
   "trailers": []
  },
  "response": {
   "headers": [
    {
     "key": ":status",
     "value": "200",
     "raw_value": ""
    },
    {
     "key": "server",
     "value": "envoy",
     "raw_value": ""
    }
   ],
   "body": {
    "as_bytes": "aGVsbG8=",
    "truncated": false
   },
   "trailers": [
    {
     "key": "grpc-status",
     "value": "0",
     "raw_value": ""
    }
   ]
  }
 }
}
"#;
    assert_eq!(String::from_utf8(json::render(&trace)).unwrap(), want);
}

#[test]
fn a_request_without_an_answer_is_json_too() {
    let (request, body) = (request(), TapBody::default());
    let value: serde_json::Value =
        serde_json::from_slice(&json::render(&trace(&request, &body))).unwrap();
    assert!(value["http_buffered_trace"]["response"].is_null());
    assert_eq!(value["http_buffered_trace"]["request"]["headers"][2]["value"], "POST");
}

#[test]
fn bodies_are_cut_at_a_kibibyte() {
    let mut body = TapBody::default();
    body.push(&[b'a'; 1000]);
    body.push(&[b'b'; 24]);
    assert_eq!((body.bytes.len(), body.truncated), (1024, false));
    body.push(b"");
    assert!(!body.truncated);
    body.push(b"c");
    assert_eq!((body.bytes.len(), body.truncated), (1024, true));
    body.clear();
    assert_eq!(body, TapBody::default());
}

#[test]
fn presence_of_the_header_taps_whatever_its_value() {
    let tap = Tap {
        path_prefix: "t".to_owned(),
        request_header: Some("seldon-logging".to_owned()),
        response_header: None,
    };
    let mut head = request();
    assert!(!tap.wants_request(&head));
    head.headers.push(b"Seldon-Logging", b"false");
    assert!(tap.wants_request(&head));
    let response = ResponseHead { status: 200, headers: head.headers.clone() };
    assert!(!tap.wants_response(&response));
    let tap = Tap { response_header: tap.request_header, request_header: None, ..tap };
    assert!(tap.wants_response(&response) && !tap.wants_request(&head));
}

fn trace<'a>(request: &'a RequestHead, body: &'a TapBody) -> Trace<'a> {
    Trace {
        request,
        request_body: body,
        request_trailers: None,
        response: None,
        response_body: body,
        response_trailers: None,
    }
}

fn files(folder: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|e| e.unwrap().file_name().to_str().unwrap().to_owned())
        .collect();
    names.sort();
    names
}

fn tap(folder: &Path) -> Tap {
    let path_prefix = folder.join("log").to_str().unwrap().to_owned();
    Tap { path_prefix, request_header: None, response_header: None }
}

#[test]
fn the_oldest_files_make_room() {
    let folder = tempfile::tempdir().unwrap();
    let tap = tap(folder.path());
    let (request, body) = (request(), TapBody::default());
    let trace = trace(&request, &body);
    let size = json::render(&trace).len() as u64;
    fs::write(folder.path().join("log_other.json"), "not ours").unwrap();
    for ids in [0..3u64, 3..5] {
        // A second run counts the files of the first.
        let taps = Taps::start(3 * size).unwrap();
        for id in ids {
            taps.submit(&tap, id, &trace);
        }
        assert_eq!(taps.dropped(), 0);
    }
    let left = files(folder.path());
    assert_eq!(left.len(), 4, "{left:?}");
    assert!(left.contains(&"log_3.json".to_owned()) && left.contains(&"log_4.json".to_owned()));
    assert!(left.contains(&"log_other.json".to_owned()));
    // Nothing fits.
    Taps::start(1).unwrap().submit(&tap, 9, &trace);
    assert_eq!(files(folder.path()), ["log_other.json"]);
}

#[test]
fn a_disk_that_refuses_costs_the_trace_only() {
    let folder = tempfile::tempdir().unwrap();
    let tap = tap(&folder.path().join("missing"));
    let (request, body) = (request(), TapBody::default());
    let mut taps = Taps::start(MAX_DISK_BYTES).unwrap();
    taps.submit(&tap, 1, &trace(&request, &body));
    taps.queue = None;
    taps.writer.take().unwrap().join().unwrap();
    assert_eq!(taps.dropped(), 1);
    taps.submit(&tap, 2, &trace(&request, &body));
    assert_eq!(taps.dropped(), 2);
}
