//! W3C Trace Context: one identifier that a request and all its consequences share, across services.
//!
//! It comes from a request's header `traceparent`, travels in the outbox row's headers, and arrives in the message.
//! The format is that of the recommendation's section 3.2, "Traceparent Header".

use std::fmt;

/// Name of the header in HTTP, in the outbox row, and in the message.
pub const HEADER: &str = "traceparent";

/// Step in a trace. Displayed as a `traceparent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    trace_id: u128,
    span_id: u64,
    flags: u8,
}

impl TraceContext {
    /// Begins a trace.
    pub fn begin() -> Self {
        Self { trace_id: fastrand::u128(1..), span_id: fastrand::u64(1..), flags: 1 }
    }

    /// Returns the next step of the trace in `traceparent`, or begins a trace if it names none.
    pub fn follow(traceparent: Option<&str>) -> Self {
        match traceparent.and_then(Self::parse) {
            Some(parent) => parent.next(),
            None => Self::begin(),
        }
    }

    /// Returns the next step of the same trace.
    #[must_use]
    pub fn next(&self) -> Self {
        Self { span_id: fastrand::u64(1..), ..*self }
    }

    /// Returns the identifier that all steps share: 32 hexadecimal digits.
    pub fn trace_id(&self) -> String {
        format!("{:032x}", self.trace_id)
    }

    /// Versions after 00 may have more fields. The known fields are read in the same way.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next()?, 2)?;
        let trace_id = hex(parts.next()?, 32)?;
        let span_id = hex(parts.next()?, 16)?;
        let flags = hex(parts.next()?, 2)?;
        let ends_here = parts.next().is_none();
        let valid = trace_id != 0 && span_id != 0 && version != 0xff && (version != 0 || ends_here);
        let (span_id, flags) = (u64::try_from(span_id).ok()?, u8::try_from(flags).ok()?);
        valid.then_some(Self { trace_id, span_id, flags })
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace_id, self.span_id, self.flags)
    }
}

/// Parses lower-case digits only, and no sign, which `from_str_radix` would accept.
fn hex(digits: &str, count: usize) -> Option<u128> {
    let valid = digits.len() == count && digits.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    valid.then(|| u128::from_str_radix(digits, 16).ok()).flatten()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_step_keeps_the_trace_and_has_an_id_of_its_own() {
        let step = TraceContext::follow(Some(PARENT));
        assert_eq!(step.trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
        let text = step.to_string();
        assert!(text.starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-") && text.ends_with("-01"), "{text}");
        assert_ne!(text, PARENT);
        assert_eq!(TraceContext::parse(&text), Some(step));
    }

    #[test]
    fn a_later_version_is_read_as_far_as_it_is_known() {
        let later = PARENT.replacen("00", "01", 1) + "-what-follows";
        assert_eq!(TraceContext::follow(Some(&later)).trace_id(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }

    #[test]
    fn what_is_no_traceparent_begins_a_new_trace() {
        for text in [
            "",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(text), None, "{text}");
        }
        assert_ne!(TraceContext::follow(None), TraceContext::follow(None));
    }
}
