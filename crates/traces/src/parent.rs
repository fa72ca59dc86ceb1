//! The context of a trace, as a caller sends it: W3C Trace Context, version 00.

use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceId, TraceState};

/// The length of a context between gateways and nodes.
const BYTES: usize = 25;
const SAMPLED: u8 = 1;

/// The trace and the span that an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    trace: u128,
    span: u64,
    flags: u8,
}

impl Parent {
    /// Reads the header `traceparent`. `None` if it is malformed; a caller is not refused for that.
    pub fn parse(text: &str) -> Option<Parent> {
        let mut parts = text.split('-');
        let (version, trace, span, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let hex = |text: &str, len: usize| {
            let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
            (text.len() == len && text.bytes().all(is_hex)).then_some(())
        };
        hex(version, 2)?;
        hex(trace, 32)?;
        hex(span, 16)?;
        hex(flags, 2)?;
        // Later versions may have more parts. Version ff is none.
        if version == "ff" || (version == "00" && parts.next().is_some()) {
            return None;
        }
        Parent::checked(
            u128::from_str_radix(trace, 16).ok()?,
            u64::from_str_radix(span, 16).ok()?,
            u8::from_str_radix(flags, 16).ok()?,
        )
    }

    /// Reads the bytes that [`to_bytes`](Self::to_bytes) wrote. `None` for anything else, such as
    /// nothing.
    pub fn of_bytes(bytes: &[u8]) -> Option<Parent> {
        let bytes: &[u8; BYTES] = bytes.try_into().ok()?;
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (span, rest) = rest.split_first_chunk::<8>()?;
        Parent::checked(u128::from_be_bytes(*trace), u64::from_be_bytes(*span), *rest.first()?)
    }

    /// The trace id, the span id and the flags, in network order.
    pub fn to_bytes(self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        bytes[..16].copy_from_slice(&self.trace.to_be_bytes());
        bytes[16..24].copy_from_slice(&self.span.to_be_bytes());
        bytes[24] = self.flags;
        bytes
    }

    /// Whether the caller records this trace.
    pub fn is_sampled(self) -> bool {
        self.flags & SAMPLED != 0
    }

    /// Zeros are no ids.
    fn checked(trace: u128, span: u64, flags: u8) -> Option<Parent> {
        (trace != 0 && span != 0).then_some(Parent { trace, span, flags })
    }
}

impl From<Parent> for SpanContext {
    fn from(parent: Parent) -> SpanContext {
        SpanContext::new(
            TraceId::from(parent.trace),
            SpanId::from(parent.span),
            TraceFlags::new(parent.flags & SAMPLED),
            true,
            TraceState::NONE,
        )
    }
}

impl From<&SpanContext> for Parent {
    fn from(context: &SpanContext) -> Parent {
        Parent {
            trace: u128::from_be_bytes(context.trace_id().to_bytes()),
            span: u64::from_be_bytes(context.span_id().to_bytes()),
            flags: context.trace_flags().to_u8(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_the_standard_has_it() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let good = format!("00-{trace}-b7ad6b7169203331-01");
        let parent = Parent::parse(&good).unwrap();
        assert!(parent.is_sampled());
        assert_eq!(parent.to_bytes()[..3], [0x0a, 0xf7, 0x65]);
        assert_eq!(Parent::of_bytes(&parent.to_bytes()), Some(parent));
        assert_eq!(Parent::from(&SpanContext::from(parent)), parent);
        let unsampled = Parent::parse(&format!("00-{trace}-b7ad6b7169203331-00")).unwrap();
        assert!(!unsampled.is_sampled());
        assert!(Parent::parse(&format!("01-{trace}-b7ad6b7169203331-01-more")).is_some(), "later");
        for bad in [
            String::new(),
            trace.to_owned(),
            format!("00-{trace}-b7ad6b7169203331"),
            format!("ff-{trace}-b7ad6b7169203331-01"),
            format!("00-{trace}-b7ad6b7169203331-01-more"),
            format!("00-{trace}-b7ad6b716920333-01"),
            format!("00-{}-b7ad6b7169203331-01", trace.to_uppercase()),
            format!("00-{}-b7ad6b7169203331-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{trace}-+7ad6b7169203331-01"),
        ] {
            assert_eq!(Parent::parse(&bad), None, "{bad}");
        }
        assert_eq!((Parent::of_bytes(&[]), Parent::of_bytes(&[1; 24])), (None, None));
    }
}
