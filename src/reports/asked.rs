//! For which days something is asked: by the parameters of an address, or by the flags of a command.

use std::ops::RangeInclusive;

use time::{Date, OffsetDateTime, format_description::well_known::Rfc3339, macros::format_description};

use crate::{
    parameters::{Parameters, Wrong},
    store::finance::{Booking, Period},
};

/// Those in which there can be callbacks.
const YEARS: RangeInclusive<i32> = 1970..=9_000;

/// What is said where days are needed and none are given.
pub const MISSING: &str = "month: missing; expected month, or from and to";

/// Days, from the first to the last, in a time zone that is not checked yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Days {
    /// The first.
    pub first: Date,
    /// The last, one of them.
    pub last: Date,
    /// In which they begin and end.
    pub time_zone: String,
}

impl Days {
    /// The parameters that name them.
    pub const NAMES: [&str; 4] = ["month", "from", "to", "time_zone"];

    /// A month, or days from one to another, or one day. `None`: nothing is asked for.
    ///
    /// # Errors
    /// Words, where these are no days.
    pub fn new(
        month: Option<(Date, Date)>,
        from: Option<Date>,
        to: Option<Date>,
        time_zone: Option<&str>,
    ) -> Result<Option<Self>, String> {
        let (first, last) = match (month, from, to) {
            (Some(month), None, None) => month,
            (None, Some(first), to) => (first, to.unwrap_or(first)),
            (None, None, None) => return Ok(None),
            (None, None, Some(_)) => return Err("to: expected together with from".to_owned()),
            (Some(_), Some(_), _) | (Some(_), _, Some(_)) => {
                return Err("month, from, to: expected a month, or days, not both".to_owned());
            }
        };
        if last < first {
            return Err(format!("to: {last} comes before {first}, which is from"));
        }
        Ok(Some(Self { first, last, time_zone: time_zone.unwrap_or("UTC").to_owned() }))
    }

    /// Those that parameters name.
    ///
    /// # Errors
    /// Words, where one cannot be used.
    pub fn of(parameters: &Parameters) -> Result<Option<Self>, Wrong> {
        let day_of = |name| read(parameters, name, day);
        Self::new(
            read(parameters, "month", month)?,
            day_of("from")?,
            day_of("to")?,
            parameters.single("time_zone")?,
        )
        .map_err(Wrong)
    }

    /// As people write them: one day, or the first and the last.
    #[must_use]
    pub fn in_words(&self) -> String {
        if self.first == self.last {
            self.first.to_string()
        } else {
            format!("{} to {}", self.first, self.last)
        }
    }

    /// What is said of a time zone that PostgreSQL does not know.
    #[must_use]
    pub fn unknown_time_zone(&self) -> String {
        format!(
            "time zone {:?} is none that PostgreSQL knows: expected a name of the IANA time zone database, such as Europe/Berlin, or UTC",
            self.time_zone
        )
    }
}

/// A time: a timestamp, or a day, of which it is the beginning or, where `is_end` says so, the end, by UTC.
///
/// # Errors
/// What was expected.
pub fn moment(text: &str, is_end: bool) -> Result<OffsetDateTime, String> {
    if let Ok(first) = day(text) {
        let day = if is_end { first.next_day().unwrap_or(first) } else { first };
        return Ok(day.midnight().assume_utc());
    }
    let given: String = text.chars().take(40).collect();
    at(text).map_err(|_| {
        format!("{given:?} is no day or time: expected a day such as 2026-10-31, or a time such as 2026-10-31T14:00:00Z")
    })
}

/// Two moments, in their order.
///
/// # Errors
/// Words, where one cannot be used.
pub fn moments(
    from: Option<&str>,
    to: Option<&str>,
) -> Result<(Option<OffsetDateTime>, Option<OffsetDateTime>), String> {
    let read = |name: &str, text: Option<&str>, is_end| {
        text.map(|text| moment(text, is_end)).transpose().map_err(|expected| format!("{name}: {expected}"))
    };
    let (since, until) = (read("from", from, false)?, read("to", to, true)?);
    if let (Some(since), Some(until)) = (since, until)
        && since >= until
    {
        return Err("to: comes before from".to_owned());
    }
    Ok((since, until))
}

/// The further parameters of a report.
pub const REPORT_NAMES: [&str; 2] = ["by", "at"];

/// The period that the parameters of a report name. `None`: none.
///
/// # Errors
/// Words, where one cannot be used.
pub fn period_of(parameters: &Parameters) -> Result<Option<Period>, Wrong> {
    let booking = parameters.choice("by", booking, "recorded, occurred")?.unwrap_or(Booking::Recorded);
    let as_of = read(parameters, "at", at)?;
    Ok(Days::of(parameters)?.map(|days| period(days, booking, as_of)))
}

/// The period of these days.
#[must_use]
pub fn period(days: Days, booking: Booking, as_of: Option<OffsetDateTime>) -> Period {
    let Days { first, last, time_zone } = days;
    Period { first, last, time_zone, booking, as_of }
}

/// The days of a period.
#[must_use]
pub fn days(period: &Period) -> Days {
    Days { first: period.first, last: period.last, time_zone: period.time_zone.clone() }
}

fn booking(text: &str) -> Option<Booking> {
    match text {
        "recorded" => Some(Booking::Recorded),
        "occurred" => Some(Booking::Occurred),
        _ => None,
    }
}

fn read<T>(
    parameters: &Parameters,
    name: &str,
    parse: impl FnOnce(&str) -> Result<T, String>,
) -> Result<Option<T>, Wrong> {
    let text = parameters.single(name)?;
    text.map(parse).transpose().map_err(|expected| Wrong(format!("{name}: {expected}")))
}

/// A day, `YYYY-MM-DD`.
///
/// # Errors
/// What was expected.
pub fn day(text: &str) -> Result<Date, String> {
    let form = format_description!("[year]-[month]-[day]");
    let day = Date::parse(text, &form).ok().filter(|day| YEARS.contains(&day.year()));
    day.ok_or_else(|| {
        format!("expected a day such as 2026-10-31, of the years {} to {}", YEARS.start(), YEARS.end())
    })
}

/// The first and the last day of a month, `YYYY-MM`.
///
/// # Errors
/// What was expected.
pub fn month(text: &str) -> Result<(Date, Date), String> {
    let first = day(&format!("{text}-01")).map_err(|_| "expected a month such as 2026-10".to_owned())?;
    let last = first.replace_day(first.month().length(first.year()));
    last.map(|last| (first, last)).map_err(|error| error.to_string())
}

/// An RFC 3339 timestamp.
///
/// # Errors
/// What was expected.
pub fn at(text: &str) -> Result<OffsetDateTime, String> {
    // In a query an unescaped plus is a blank.
    OffsetDateTime::parse(&text.replace(' ', "+"), &Rfc3339)
        .ok()
        .filter(|at| YEARS.contains(&at.year()))
        .ok_or_else(|| "expected an RFC 3339 timestamp such as 2026-11-01T00:00:00Z".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(query: &str) -> Result<Option<Period>, Wrong> {
        let known = [&Days::NAMES[..], &REPORT_NAMES].concat();
        period_of(&Parameters::of_page(Some(query), &known).expect("they are known"))
    }

    #[test]
    fn a_month_is_its_days_and_a_day_is_itself() {
        let february = of("month=2024-02&by=occurred&time_zone=Asia%2FTokyo").unwrap().expect("a month");
        assert_eq!(
            (february.first.to_string(), february.last.to_string()),
            ("2024-02-01".into(), "2024-02-29".into())
        );
        assert_eq!((february.booking, february.time_zone.as_str()), (Booking::Occurred, "Asia/Tokyo"));
        let day = of("from=2026-10-31&at=2026-11-01T00:00:00+01:00").unwrap().expect("a day");
        assert_eq!((day.first, day.booking, day.time_zone.as_str()), (day.last, Booking::Recorded, "UTC"));
        assert!(day.as_of.is_some());
        assert_eq!(of("month=&from=&by="), Ok(None), "a form that nobody filled in asks for nothing");
    }

    #[test]
    fn what_are_no_days_is_named() {
        for (query, words) in [
            ("month=2026-13", "month: expected a month such as 2026-10"),
            ("from=2026-02-30", "from: expected a day such as 2026-10-31, of the years 1970 to 9000"),
            ("to=2026-02-01", "to: expected together with from"),
            ("month=2026-02&from=2026-02-01", "month, from, to: expected a month, or days, not both"),
            ("from=2026-02-02&to=2026-02-01", "to: 2026-02-01 comes before 2026-02-02, which is from"),
            ("from=2026-02-02&by=created", "by: \"created\" is unknown; expected recorded, occurred"),
            ("from=2026-02-02&at=now", "at: expected an RFC 3339 timestamp such as 2026-11-01T00:00:00Z"),
        ] {
            assert_eq!(of(query), Err(Wrong(words.to_owned())), "{query}");
        }
    }
}
