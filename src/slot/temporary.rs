//! The name of the temporary slot that holds the backlog's snapshot until the permanent slot exists. Instances recognise each other by it.

/// The name of a slot's temporary slot: at most 63 bytes (`NAMEDATALEN`), and different for every slot.
pub fn temporary_name(slot: &str) -> String {
    const SUFFIX: &str = "_backlog";
    const BYTES_MAX: usize = 63;
    if slot.len() + SUFFIX.len() <= BYTES_MAX {
        return format!("{slot}{SUFFIX}");
    }
    // FNV-1a: every version of outboxd must compute the same name.
    let hash =
        slot.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    let kept: String = slot.chars().take(BYTES_MAX - SUFFIX.len() - 9).collect();
    format!("{kept}_{hash:08x}{SUFFIX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn temporary_names_fit_and_differ() {
        assert_eq!(temporary_name("outboxd_orders"), "outboxd_orders_backlog");
        let long = |last: char| format!("{}{last}", "a".repeat(62));
        let (one, other) = (temporary_name(&long('x')), temporary_name(&long('y')));
        assert_eq!((one.len(), other.len()), (63, 63));
        assert_ne!(one, other);
        assert_eq!(temporary_name(&"b".repeat(55)).len(), 63);
    }
}
