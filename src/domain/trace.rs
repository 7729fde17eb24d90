//! W3C trace context: which trace an execution belongs to, and whose child its attempts are.

/// The longest `tracestate` that is kept.
const MAX_TRACESTATE: usize = 512;
/// The most members it may have.
const MAX_MEMBERS: usize = 32;

/// A place in a trace, as it is handed on from program to program and stored in between.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace, the span and whether they are sampled: `00-<32 hex>-<16 hex>-<2 hex>`.
    pub traceparent: String,
    /// What tracing systems keep beside it; at most 512 characters.
    pub tracestate: Option<String>,
}

impl TraceContext {
    /// What a caller sent, if its `traceparent` is well-formed: a malformed one is ignored, as W3C
    /// asks, and one of a later version is read as far as it is known. A `tracestate` that is malformed
    /// or too long is dropped alone.
    pub fn parse(traceparent: &str, tracestate: Option<&str>) -> Option<Self> {
        Some(Self {
            traceparent: known(traceparent)?,
            tracestate: tracestate.filter(|state| is_tracestate(state)).map(str::to_owned),
        })
    }

    /// The trace id, in hexadecimal digits.
    pub fn trace_id(&self) -> &str {
        self.traceparent.split('-').nth(1).unwrap_or_default()
    }

    /// Whether whoever began the trace keeps it somewhere.
    pub fn is_sampled(&self) -> bool {
        is_sampled(self.traceparent.split('-').nth(3).unwrap_or_default())
    }
}

/// A `traceparent` in version 00, if this is one.
fn known(text: &str) -> Option<String> {
    let mut parts = text.split('-');
    let [version, trace_id, parent_id, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
    let is_whole = is_id(trace_id, 32) && is_id(parent_id, 16) && is_hex(flags, 2);
    match version {
        _ if !is_whole => None,
        "00" => parts.next().is_none().then(|| text.to_owned()),
        "ff" => None,
        // What follows, and all flags but one, may mean anything there.
        later if is_hex(later, 2) => {
            Some(format!("00-{trace_id}-{parent_id}-0{}", u8::from(is_sampled(flags))))
        }
        _ => None,
    }
}

fn is_sampled(flags: &str) -> bool {
    u8::from_str_radix(flags, 16).is_ok_and(|flags| flags & 1 == 1)
}

fn is_id(text: &str, length: usize) -> bool {
    is_hex(text, length) && text.bytes().any(|byte| byte != b'0')
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_tracestate(text: &str) -> bool {
    let is_key = |key: &str| {
        let first = key.bytes().next();
        let known = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte)
        };
        key.len() <= 256
            && first.is_some_and(|it| it.is_ascii_lowercase() || it.is_ascii_digit())
            && key.bytes().all(known)
    };
    let is_value = |value: &str| {
        let printable = |byte: u8| matches!(byte, b' '..=b'~') && byte != b'=';
        (1..=256).contains(&value.len()) && value.bytes().all(printable)
    };
    let is_member = |member: &str| {
        member.split_once('=').is_some_and(|(key, value)| is_key(key) && is_value(value))
    };
    let mut members = text.split(',').map(str::trim).filter(|member| !member.is_empty()).peekable();
    text.len() <= MAX_TRACESTATE
        && members.peek().is_some()
        && members.clone().count() <= MAX_MEMBERS
        && members.all(is_member)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_well_formed_trace_context_is_taken() {
        let state = "rojo=00f067aa0ba902b7, congo=t61rcWkgMzE";
        let context = TraceContext::parse(GOOD, Some(state)).unwrap();
        assert_eq!(context.traceparent, GOOD);
        assert_eq!(context.tracestate.as_deref(), Some(state));
        assert_eq!(context.trace_id(), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn of_a_later_version_what_is_known_is_taken() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        for (later, flags) in [
            (format!("01-{ids}-01"), "01"),
            (format!("cc-{ids}-01-what-will-be"), "01"),
            (format!("fe-{ids}-01-"), "01"),
            (format!("cc-{ids}-fe-what-will-be"), "00"),
        ] {
            let context = TraceContext::parse(&later, Some("rojo=1")).unwrap();
            assert_eq!(context.traceparent, format!("00-{ids}-{flags}"), "{later}");
            assert_eq!(context.tracestate.as_deref(), Some("rojo=1"));
        }
    }

    #[test]
    fn one_flag_of_eight_says_that_a_trace_is_kept() {
        let ids = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
        for (flags, sampled) in [("01", true), ("03", true), ("00", false), ("02", false)] {
            let context = TraceContext::parse(&format!("00-{ids}-{flags}"), None).unwrap();
            assert_eq!(context.is_sampled(), sampled, "{flags}");
        }
    }

    #[test]
    fn a_malformed_trace_context_is_ignored() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "1-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "CC-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01.what-will-be",
            "cc-00000000000000000000000000000000-b7ad6b7169203331-01-what-will-be",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::parse(bad, None), None, "{bad}");
        }
    }

    #[test]
    fn a_malformed_or_endless_tracestate_is_dropped_alone() {
        let endless = format!("a={}", "x".repeat(MAX_TRACESTATE));
        let crowded = vec!["a=1"; MAX_MEMBERS + 1].join(",");
        for bad in ["", ",", "a", "a=", "=1", "A=1", "a=b=c", "a=1,b", "a=\u{e4}", "a=1\r\nb: 2"] {
            assert!(!is_tracestate(bad), "{bad:?}");
        }
        for bad in [&endless, &crowded] {
            let context = TraceContext::parse(GOOD, Some(bad)).unwrap();
            assert_eq!(context.tracestate, None);
        }
    }
}
