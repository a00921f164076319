//! Amounts of providers → minor units of ISO 4217. By digits alone: no float comes near, and what is not exact is refused. Exponents and
//! differences: ISO 4217 list one, and the providers' own pages (docs/providers). What must not live here: any provider's names.

use crate::ledger::Currency;

/// Largest amount in minor units (contract §2).
pub const MINOR_UNITS_MAX: u64 = 9_007_199_254_740_991;

/// Why an amount cannot be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not a whole number, or not decimal text.
    #[error("not an amount: expected digits, at most one decimal point, and no exponent or sign")]
    Form,
    /// Digits beyond what the currency has.
    #[error("not exact in the minor unit of this currency")]
    NotExact,
    /// Over 9007199254740991.
    #[error("larger than 9007199254740991 minor units")]
    TooLarge,
}

/// Decimal digits of a currency's minor unit by ISO 4217.
#[must_use]
pub fn exponent(currency: Currency) -> u32 {
    currency.minor_digits()
}

/// Where a provider's minor unit has other decimal digits than ISO 4217's.
#[derive(Debug, Clone, Copy)]
pub struct Differences(pub &'static [(&'static str, u32)]);

impl Differences {
    /// The same as ISO 4217.
    pub const NONE: Self = Self(&[]);

    /// A whole number of the provider's minor units → minor units of ISO 4217.
    ///
    /// # Errors
    /// [`AmountError`] where the result is not whole, or too large.
    pub fn minor_units(self, amount: u64, currency: Currency) -> Result<u64, AmountError> {
        let iso = exponent(currency);
        let theirs = self.0.iter().find(|(code, _)| *code == currency.as_str()).map_or(iso, |(_, own)| *own);
        let scaled = if theirs >= iso {
            let divisor = 10_u64.pow(theirs - iso);
            if !amount.is_multiple_of(divisor) {
                return Err(AmountError::NotExact);
            }
            amount / divisor
        } else {
            amount.checked_mul(10_u64.pow(iso - theirs)).ok_or(AmountError::TooLarge)?
        };
        if scaled > MINOR_UNITS_MAX { Err(AmountError::TooLarge) } else { Ok(scaled) }
    }
}

/// Decimal text such as `10.00` → minor units. Digits beyond the currency's must be zeros. Refused: signs, exponents, blanks, `.5`, `5.`.
///
/// # Errors
/// [`AmountError`].
pub fn decimal(text: &str, currency: Currency) -> Result<u64, AmountError> {
    let (whole, fraction) = match text.split_once('.') {
        Some((_, "")) => return Err(AmountError::Form),
        Some(parts) => parts,
        None => (text, ""),
    };
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(AmountError::Form);
    }
    let digits = exponent(currency) as usize;
    let (kept, beyond) = fraction.split_at(fraction.len().min(digits));
    if beyond.bytes().any(|byte| byte != b'0') {
        return Err(AmountError::NotExact);
    }
    let zeros = std::iter::repeat_n(b'0', digits - kept.len());
    let mut amount = 0_u64;
    for digit in whole.bytes().chain(kept.bytes()).chain(zeros) {
        let next = amount.checked_mul(10).and_then(|tens| tens.checked_add(u64::from(digit - b'0')));
        amount = next.filter(|next| *next <= MINOR_UNITS_MAX).ok_or(AmountError::TooLarge)?;
    }
    Ok(amount)
}
