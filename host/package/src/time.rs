//! RFC 3339 date-times in a policy, and seconds since the Unix epoch.
//!
//! The calendar arithmetic counts days in a year that starts in March, so
//! that the leap day is the last.
//!
//! # Source
//! Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".

use std::fmt;

use toml::value::{Date, Datetime, Offset, Time};

const DAY_S: i64 = 86_400;
/// From 0000-03-01 to 1970-01-01.
const EPOCH_DAYS: i64 = 719_468;
/// In 400 years of the Gregorian calendar.
const ERA_DAYS: i64 = 146_097;
/// The last second of the year 9999, the last that RFC 3339 can write.
const LAST_UNIX_S: u64 = 253_402_300_799;

/// Seconds since the epoch of a full RFC 3339 date-time; what lies below a
/// second is dropped.
pub(crate) fn to_unix_s(datetime: &Datetime) -> Result<u64, &'static str> {
    let (Some(date), Some(time), Some(offset)) = (datetime.date, datetime.time, datetime.offset)
    else {
        return Err("must have a date, a time and an offset, such as 2030-01-31T00:00:00Z");
    };
    let offset_min = match offset {
        Offset::Z => 0,
        Offset::Custom { minutes } => i64::from(minutes),
    };
    let second_of_day = i64::from(time.hour) * 3600
        + i64::from(time.minute) * 60
        + i64::from(time.second.unwrap_or(0));
    let unix_s = days_since_epoch(&date) * DAY_S + second_of_day - offset_min * 60;
    u64::try_from(unix_s).map_err(|_| "must not lie before 1970")
}

/// The inverse of [`to_unix_s`], in UTC; none after the year 9999.
pub(crate) fn from_unix_s(unix_s: u64) -> Option<Datetime> {
    let unix_s = i64::try_from(unix_s).ok().filter(|_| unix_s <= LAST_UNIX_S)?;
    let second_of_day = unix_s % DAY_S;
    let days = unix_s / DAY_S + EPOCH_DAYS;
    let day_of_era = days % ERA_DAYS;
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let march_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * march_month + 2) / 5 + 1;
    let month = (march_month + 2) % 12 + 1;
    let year = days / ERA_DAYS * 400 + year_of_era + i64::from(month <= 2);
    Some(Datetime {
        date: Some(Date {
            year: u16::try_from(year).ok()?,
            month: u8::try_from(month).ok()?,
            day: u8::try_from(day).ok()?,
        }),
        time: Some(Time {
            hour: u8::try_from(second_of_day / 3600).ok()?,
            minute: u8::try_from(second_of_day / 60 % 60).ok()?,
            second: Some(u8::try_from(second_of_day % 60).ok()?),
            nanosecond: None,
        }),
        offset: Some(Offset::Z),
    })
}

fn days_since_epoch(date: &Date) -> i64 {
    let month = i64::from(date.month);
    let year = i64::from(date.year) - i64::from(month <= 2);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + i64::from(date.day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    year.div_euclid(400) * ERA_DAYS + day_of_era - EPOCH_DAYS
}

/// Shows seconds since the epoch as RFC 3339.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Utc(pub(crate) u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match from_unix_s(self.0) {
            Some(datetime) => fmt::Display::fmt(&datetime, f),
            None => write!(f, "{} s after 1970", self.0),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn unix_s(text: &str) -> Result<u64, &'static str> {
        to_unix_s(&text.parse().unwrap())
    }

    /// Pairs from RFC 3339, section 5.8, and from GNU `date`.
    #[test]
    fn published_date_times() {
        assert_eq!(unix_s("1985-04-12T23:20:50.52Z"), Ok(482_196_050));
        assert_eq!(unix_s("1996-12-19T16:39:57-08:00"), unix_s("1996-12-20T00:39:57Z"));
        assert_eq!(unix_s("1937-01-01T12:00:27.87+00:20"), Err("must not lie before 1970"));
        assert_eq!(unix_s("1970-01-01T00:00:00Z"), Ok(0));
        assert_eq!(unix_s("2000-02-29T12:00:00Z"), Ok(951_825_600));
        assert_eq!(unix_s("2100-03-01T00:00:00Z"), Ok(4_107_542_400));
        assert_eq!(unix_s("9999-12-31T23:59:59Z"), Ok(LAST_UNIX_S));
    }

    #[test]
    fn local_and_partial_date_times_are_refused() {
        for text in ["2030-01-31", "2030-01-31T00:00:00", "12:00:00"] {
            assert!(unix_s(text).unwrap_err().contains("an offset"), "{text}");
        }
    }

    #[test]
    fn every_day_of_five_centuries_round_trips() {
        for day in 0..(500 * 366) {
            let s = day * 86_400 + day % 86_400;
            assert_eq!(to_unix_s(&from_unix_s(s).unwrap()), Ok(s));
        }
        assert_eq!(from_unix_s(LAST_UNIX_S).unwrap().to_string(), "9999-12-31T23:59:59Z");
        assert!(from_unix_s(LAST_UNIX_S + 1).is_none());
        assert!(from_unix_s(u64::MAX).is_none());
    }
}
