//! Points in time with PostgreSQL's resolution, and their form in RFC 3339.

use std::{
    fmt,
    str::FromStr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// Microseconds since 1970-01-01 00:00:00 UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(pub i64);

const DAY_S: i64 = 86_400;
const MICROS: i64 = 1_000_000;

impl Timestamp {
    /// Reads the system clock.
    pub fn now() -> Self {
        SystemTime::now().into()
    }

    /// Time from `earlier` to `self`. Zero if `earlier` is later, which happens between the clocks of two machines.
    pub fn since(self, earlier: Timestamp) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// Whole seconds since 1970, as AMQP needs them. Earlier times give 0.
    pub fn seconds(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000)).unwrap_or(0)
    }

    /// Subtracts `distance`.
    pub fn before(self, distance: Duration) -> Self {
        Self(self.0.saturating_sub(i64::try_from(distance.as_micros()).unwrap_or(i64::MAX)))
    }
}

/// Times before 1970 become 1970.
impl From<SystemTime> for Timestamp {
    fn from(time: SystemTime) -> Self {
        let since_epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since_epoch.as_micros()).unwrap_or(i64::MAX))
    }
}

impl From<Timestamp> for SystemTime {
    fn from(Timestamp(micros): Timestamp) -> Self {
        let distance = Duration::from_micros(micros.unsigned_abs());
        let time =
            if micros < 0 { UNIX_EPOCH.checked_sub(distance) } else { UNIX_EPOCH.checked_add(distance) };
        time.unwrap_or(UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC, to the millisecond: `2026-01-31T08:05:09.250Z`.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.0.div_euclid(MICROS), self.0.rem_euclid(MICROS));
        let (days, second) = (seconds.div_euclid(DAY_S), seconds.rem_euclid(DAY_S));
        let (year, month, day) = civil(days);
        let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
        let milli = micros / 1000;
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
    }
}

/// The text is not a time of RFC 3339.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a time of RFC 3339, such as 2026-01-31T08:05:09Z or 2026-01-31T09:05:09.25+01:00")]
pub struct ParseTimestampError;

/// Parses RFC 3339, section 5.6. Digits beyond the microsecond are dropped.
impl FromStr for Timestamp {
    type Err = ParseTimestampError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text.as_bytes()).ok_or(ParseTimestampError)
    }
}

/// The text names no point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseSinceError {
    /// A time without a time zone.
    #[error("a time needs its zone: append Z for UTC, or an offset such as +01:00 (2026-01-31T08:05:09Z)")]
    NoZone,
    /// Any other text.
    #[error(
        "not a time: write 90s, 15m, 1h, 2d or 1w (before now), a date such as 2026-01-31 (its beginning in UTC), or a time \
         such as 2026-01-31T08:05:09Z or 2026-01-31T09:05:09+01:00"
    )]
    NoTime,
}

impl Timestamp {
    /// Parses a time of RFC 3339, a date (its beginning in UTC), or a distance before `now`: `90s`, `15m`, `1h`, `2d`, `1w`.
    ///
    /// # Errors
    ///
    /// [`ParseSinceError`].
    pub fn parse_since(text: &str, now: Timestamp) -> Result<Self, ParseSinceError> {
        let text = text.trim();
        if let Some(time) = parse(text.as_bytes()).or_else(|| parse(format!("{text}T00:00:00Z").as_bytes())) {
            return Ok(time);
        }
        if parse(format!("{text}Z").as_bytes()).is_some() {
            return Err(ParseSinceError::NoZone);
        }
        let (number, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
        let seconds = match unit.trim_start() {
            "s" => 1,
            "m" | "min" => 60,
            "h" => 3600,
            "d" => 86_400,
            "w" => 7 * 86_400,
            _ => return Err(ParseSinceError::NoTime),
        };
        let number: u64 = number.parse().map_err(|_| ParseSinceError::NoTime)?;
        number
            .checked_mul(seconds)
            .map(|seconds| now.before(Duration::from_secs(seconds)))
            .ok_or(ParseSinceError::NoTime)
    }
}

fn parse(text: &[u8]) -> Option<Timestamp> {
    let (date_time, mut rest) = text.split_at_checked(19)?;
    let number = |from: usize, to: usize| digits(date_time.get(from..to)?);
    let separators = [date_time[4], date_time[7], date_time[13], date_time[16]] == *b"--::";
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !separators || !matches!(date_time[10], b'T' | b't' | b' ') {
        return None;
    }
    let mut micros = 0;
    if let Some(fraction) = rest.strip_prefix(b".") {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        let (fraction, offset) = fraction.split_at(length);
        rest = offset;
        let kept = fraction.get(..fraction.len().min(6)).filter(|kept| !kept.is_empty())?;
        micros = digits(kept)? * 10_i64.pow(6 - u32::try_from(kept.len()).ok()?);
    }
    let offset_minutes = match rest {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (digits(&[*h1, *h2])?, digits(&[*m1, *m2])?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let days = days_since_1970(year, month, day);
    // Second 60 is a leap second. Servers' clocks do not have it, so it counts as the next second.
    if civil(days) != (year, month, day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let seconds = days * DAY_S + hour * 3600 + minute * 60 + second - offset_minutes * 60;
    Some(Timestamp(seconds * MICROS + micros))
}

fn digits(text: &[u8]) -> Option<i64> {
    if !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    str::from_utf8(text).ok()?.parse().ok()
}

// Years are counted from March. The leap day is then the last day of the year, and the lengths of the months repeat every five
// months (153 days).

const FROM_0000_03_01_TO_1970: i64 = 719_468;
const CENTURIES_4: i64 = 146_097;

/// Returns the Gregorian date of a day, counted from 1970-01-01.
fn civil(days_since_1970: i64) -> (i64, i64, i64) {
    let days = days_since_1970 + FROM_0000_03_01_TO_1970;
    let (era, of_era) = (days.div_euclid(CENTURIES_4), days.rem_euclid(CENTURIES_4));
    // Without the leap days, every year has 365 days.
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / (CENTURIES_4 - 1)) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}

/// The inverse of [`civil`]. A date that does not exist gives the day of another date.
fn days_since_1970(year: i64, month: i64, day: i64) -> i64 {
    let (year, from_march) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * from_march + 2) / 5 + day - 1;
    era * CENTURIES_4 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - FROM_0000_03_01_TO_1970
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_commit_before_1970_has_second_zero() {
        let seconds = [-1, i64::MIN, 1_999_999].map(|microseconds| Timestamp(microseconds).seconds());
        assert_eq!(seconds, [0, 0, 1]);
    }

    #[test]
    fn times_of_rfc_3339_and_no_others() {
        for (text, shown) in [
            ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000Z"),
            ("2026-01-31T09:05:09.25+01:00", "2026-01-31T08:05:09.250Z"),
            ("2024-02-29t23:59:59.999999999z", "2024-02-29T23:59:59.999Z"),
            ("2000-12-31 23:30:00-00:45", "2001-01-01T00:15:00.000Z"),
            ("1969-12-31T23:59:59.5Z", "1969-12-31T23:59:59.500Z"),
            ("2016-12-31T23:59:60Z", "2017-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(text.parse::<Timestamp>().unwrap().to_string(), shown, "{text}");
        }
        for bad in [
            "",
            "yesterday",
            "2026-01-31",
            "2026-01-31T08:05:09",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-00-10T00:00:00Z",
            "2026-01-31T24:00:00Z",
            "2026-01-31T08:05:09.Z",
            "2026-01-31T08:05:09+1:00",
            "2026-01-31T08:05:09+01:60",
            "2026-01-31T08:05:09Z ",
            "+026-01-31T08:05:09Z",
            "2026-01-31T08:05:0\u{e9}Z",
        ] {
            assert_eq!(bad.parse::<Timestamp>(), Err(ParseTimestampError), "{bad}");
        }
    }

    #[test]
    fn since_is_a_time_a_date_or_so_long_ago() {
        let now: Timestamp = "2026-01-31T12:00:00Z".parse().unwrap();
        for (text, shown) in [
            ("1h", "2026-01-31T11:00:00.000Z"),
            ("90s", "2026-01-31T11:58:30.000Z"),
            ("15 min", "2026-01-31T11:45:00.000Z"),
            ("2d", "2026-01-29T12:00:00.000Z"),
            ("1w", "2026-01-24T12:00:00.000Z"),
            ("0s", "2026-01-31T12:00:00.000Z"),
            ("2026-01-30", "2026-01-30T00:00:00.000Z"),
            ("2026-01-31T09:05:09+01:00", "2026-01-31T08:05:09.000Z"),
        ] {
            assert_eq!(Timestamp::parse_since(text, now).unwrap().to_string(), shown, "{text}");
        }
        for text in ["2026-01-31T08:05:09", "2026-01-31 08:05:09.5"] {
            assert_eq!(Timestamp::parse_since(text, now), Err(ParseSinceError::NoZone), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "h",
            "5",
            "1y",
            "-1h",
            "1.5h",
            "2026-02-30",
            "99999999999999999999w",
            "9223372036854775807w",
        ] {
            assert_eq!(Timestamp::parse_since(text, now), Err(ParseSinceError::NoTime), "{text}");
        }
    }

    #[test]
    fn dates_around_every_kind_of_leap_year() {
        // Seconds from `date -u -d ... +%s`.
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.007Z"),
            (68_169_599, "1972-02-28T23:59:59.007Z"),
            (68_169_600, "1972-02-29T00:00:00.007Z"),
            (951_782_400, "2000-02-29T00:00:00.007Z"),
            (951_868_800, "2000-03-01T00:00:00.007Z"),
            (1_735_689_599, "2024-12-31T23:59:59.007Z"),
            (1_735_689_600, "2025-01-01T00:00:00.007Z"),
            (4_107_542_399, "2100-02-28T23:59:59.007Z"),
            (4_107_542_400, "2100-03-01T00:00:00.007Z"),
        ] {
            assert_eq!(Timestamp(seconds * MICROS + 7_000).to_string(), text);
        }
    }

    #[test]
    fn every_day_of_four_centuries_is_its_own() {
        for days in -200_000..200_000 {
            let (year, month, day) = civil(days);
            assert_eq!(days_since_1970(year, month, day), days);
        }
    }
}
