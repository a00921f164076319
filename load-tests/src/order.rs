//! The order of a plan: stories mixed with the rest, and copies put beside or behind their first.

use std::collections::HashMap;

use rand::{Rng, RngExt, rngs::StdRng};

use crate::plan::{Distinct, Sending, Way};

/// How far apart the callbacks of one story are published, in callbacks.
pub const STORY_WINDOW: usize = 500;

/// Any order, but the callbacks of one story stay within [`STORY_WINDOW`] of each other.
pub fn mix(callbacks: &mut Vec<&Distinct>, random: &mut StdRng) {
    let length = callbacks.len();
    let mut begins: HashMap<u32, usize> = HashMap::new();
    let mut placed: Vec<(usize, &Distinct)> = callbacks
        .drain(..)
        .map(|one| {
            let place = random.random_range(0..length);
            let place = match one.story {
                None => place,
                Some(story) => *begins.entry(story).or_insert(place) + random.random_range(0..STORY_WINDOW),
            };
            (place, one)
        })
        .collect();
    placed.sort_by_key(|(place, _)| *place);
    callbacks.extend(placed.into_iter().map(|(_, one)| one));
}

pub fn with_copies_beside(sendings: &[Sending], beside: &[Vec<Way>]) -> Vec<Sending> {
    let mut all = Vec::with_capacity(sendings.len());
    for sending in sendings {
        all.push(*sending);
        let copies = beside.get(sending.distinct as usize).map_or(&[][..], Vec::as_slice);
        all.extend(copies.iter().map(|way| Sending { way: Some(*way), ..*sending }));
    }
    all
}

/// Puts each copy at a random place behind its first copy; one whose first is in the opening may be anywhere.
pub fn insert_behind(main: &mut Vec<Sending>, copies: Vec<Sending>, random: &mut impl Rng) {
    let mut first_at = HashMap::new();
    for (at, sending) in main.iter().enumerate() {
        first_at.entry(sending.distinct).or_insert(at);
    }
    let mut placed: Vec<(usize, Sending)> = copies
        .into_iter()
        .map(|copy| {
            (random.random_range(first_at.get(&copy.distinct).map_or(0, |at| at + 1)..=main.len()), copy)
        })
        .collect();
    placed.sort_by_key(|(at, _)| *at);
    let mut merged = Vec::with_capacity(main.len() + placed.len());
    let mut placed = placed.into_iter().peekable();
    for (at, sending) in main.iter().enumerate() {
        while let Some((_, copy)) = placed.next_if(|(before, _)| *before <= at) {
            merged.push(copy);
        }
        merged.push(*sending);
    }
    merged.extend(placed.map(|(_, copy)| copy));
    *main = merged;
}
