//! ISO 4217 alphabetic codes.

use std::fmt;

/// A currency by its ISO 4217 alphabetic code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(&'static str);

impl Currency {
    /// The currency of this code, `None` where ISO 4217 has no such code. Codes are upper case.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let at = CODES.binary_search(&code).ok()?;
        CODES.get(at).copied().map(Self)
    }

    /// The three letters.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        self.0
    }

    /// Decimal digits of the minor unit, by ISO 4217 list one.
    #[must_use]
    pub fn minor_digits(self) -> u32 {
        match self.0 {
            "BIF" | "CLP" | "DJF" | "GNF" | "ISK" | "JPY" | "KMF" | "KRW" | "PYG" | "RWF" | "UGX" | "UYI"
            | "VND" | "VUV" | "XAF" | "XOF" | "XPF" => 0,
            "BHD" | "IQD" | "JOD" | "KWD" | "LYD" | "OMR" | "TND" => 3,
            "CLF" | "UYW" => 4,
            _ => 2,
        }
    }

    /// Minor units as decimal text: `-1999` of CNY is `-19.99`, of JPY `-1999`, of KWD `-1.999`.
    #[must_use]
    pub fn decimal(self, minor_units: impl Into<i128>) -> String {
        let (sign, whole, fraction) = self.parts(minor_units.into());
        format!("{sign}{whole}{fraction}")
    }

    /// The same for people: thousands apart, with the code, such as `-1,019.99 CNY`.
    #[must_use]
    pub fn money(self, minor_units: impl Into<i128>) -> String {
        let (sign, whole, fraction) = self.parts(minor_units.into());
        let mut apart = String::new();
        for (at, digit) in whole.char_indices() {
            if at > 0 && (whole.len() - at) % 3 == 0 {
                apart.push(',');
            }
            apart.push(digit);
        }
        format!("{sign}{apart}{fraction} {self}")
    }

    /// Sign, digits before the point, and the point with what follows it.
    fn parts(self, minor_units: i128) -> (&'static str, String, String) {
        let digits = self.minor_digits() as usize;
        let sign = if minor_units < 0 { "-" } else { "" };
        let mut whole = format!("{:0width$}", minor_units.unsigned_abs(), width = digits + 1);
        let fraction = whole.split_off(whole.len().saturating_sub(digits));
        let point = if fraction.is_empty() { "" } else { "." };
        (sign, whole, format!("{point}{fraction}"))
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// ISO 4217 list one (active codes of countries and funds), sorted. Codes withdrawn in 2023 or later (ANG, BGN, CUC, HRK, SLL,
/// ZWL) stay, because refunds of older payments still name them. Left out: precious metals, the testing code XTS and the "no
/// currency" code XXX, which no account can hold.
const CODES: [&str; 173] = [
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD",
    "BIF", "BMD", "BND", "BOB", "BOV", "BRL", "BSD", "BTN", "BWP", "BYN", "BZD", "CAD", "CDF", "CHE", "CHF",
    "CHW", "CLF", "CLP", "CNY", "COP", "COU", "CRC", "CUC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD",
    "EGP", "ERN", "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD",
    "HNL", "HRK", "HTG", "HUF", "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS",
    "KHR", "KMF", "KPW", "KRW", "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LYD", "MAD", "MDL",
    "MGA", "MKD", "MMK", "MNT", "MOP", "MRU", "MUR", "MVR", "MWK", "MXN", "MXV", "MYR", "MZN", "NAD", "NGN",
    "NIO", "NOK", "NPR", "NZD", "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD",
    "RUB", "RWF", "SAR", "SBD", "SCR", "SDG", "SEK", "SGD", "SHP", "SLE", "SLL", "SOS", "SRD", "SSP", "STN",
    "SVC", "SYP", "SZL", "THB", "TJS", "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD",
    "USN", "UYI", "UYU", "UYW", "UZS", "VED", "VES", "VND", "VUV", "WST", "XAF", "XCD", "XCG", "XDR", "XOF",
    "XPF", "XSU", "XUA", "YER", "ZAR", "ZMW", "ZWG", "ZWL",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_sorted_so_that_every_code_is_found() {
        assert!(CODES.is_sorted());
        for code in CODES {
            assert_eq!(Currency::parse(code).map(Currency::as_str), Some(code));
        }
    }

    #[test]
    fn money_has_the_digits_of_its_currency_and_thousands_apart() {
        for (minor_units, code, decimal, money) in [
            (-1_999, "CNY", "-19.99", "-19.99 CNY"),
            (5, "EUR", "0.05", "0.05 EUR"),
            (100_118_820, "EUR", "1001188.20", "1,001,188.20 EUR"),
            (99_999, "EUR", "999.99", "999.99 EUR"),
            (178_017, "JPY", "178017", "178,017 JPY"),
            (0, "JPY", "0", "0 JPY"),
            (519_354, "KWD", "519.354", "519.354 KWD"),
            (i64::MIN, "CLF", "-922337203685477.5808", "-922,337,203,685,477.5808 CLF"),
        ] {
            let currency = Currency::parse(code).unwrap();
            assert_eq!(
                (currency.decimal(minor_units), currency.money(minor_units)),
                (decimal.into(), money.into())
            );
        }
    }

    #[test]
    fn what_is_not_a_code_is_refused() {
        for text in ["", "cny", "CNYX", "XXX", "XTS", "AAA", "ZZZ", "C Y"] {
            assert_eq!(Currency::parse(text), None, "{text}");
        }
    }
}
