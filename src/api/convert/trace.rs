//! The W3C trace context of a submission.

use tonic::metadata::MetadataMap;

/// The caller's `traceparent`, if it is well-formed; a malformed one is ignored, as W3C asks.
pub(crate) fn traceparent(metadata: &MetadataMap) -> Option<String> {
    let text = metadata.get("traceparent")?.to_str().ok()?;
    is_well_formed(text).then(|| text.to_owned())
}

/// The trace id in a well-formed `traceparent`.
pub(crate) fn trace_id(traceparent: &str) -> &str {
    traceparent.split('-').nth(1).unwrap_or_default()
}

fn is_well_formed(text: &str) -> bool {
    let parts: Vec<_> = text.split('-').collect();
    let [version, trace_id, parent_id, flags] = parts[..] else { return false };
    version == "00" && is_id(trace_id, 32) && is_id(parent_id, 16) && is_hex(flags, 2)
}

fn is_id(text: &str, length: usize) -> bool {
    is_hex(text, length) && text.bytes().any(|byte| byte != b'0')
}

fn is_hex(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_well_formed_trace_context_is_taken() {
        let mut metadata = MetadataMap::new();
        assert_eq!(traceparent(&metadata), None);
        metadata.insert("traceparent", GOOD.parse().unwrap());
        assert_eq!(traceparent(&metadata).as_deref(), Some(GOOD));
        assert_eq!(trace_id(GOOD), "0af7651916cd43dd8448eb211c80319c");
    }

    #[test]
    fn a_malformed_trace_context_is_ignored() {
        for bad in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319-b7ad6b7169203331-01",
        ] {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
