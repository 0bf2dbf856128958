//! R: routing.

use super::{Case, case};
use crate::upstream::ok;

pub fn cases() -> Vec<Case> {
    vec![case("R01", |p| {
        let upstream = p.serve(ok());
        let reply = p.get("/v2/x", "seldon-model:   {m} \t\r\n");
        p.expect(reply.status() == 200, "route a value between blanks");
        p.get("/v2/x", "seldon-model: R01\r\n");
        p.note_received(&upstream);
    })]
}
