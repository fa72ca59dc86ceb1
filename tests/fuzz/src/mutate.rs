//! Mutations of inputs. A seed decides all of them, so that a run has the same results every time.
//!
//! The mutations are the usual ones: bits, bytes, numbers at their limits, and pieces that are cut
//! out, doubled, or taken from another input. Cleverer mutations are left to coverage guidance.

/// A small generator of pseudo-random numbers (splitmix64).
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Starts a generator. `seed` decides every number that follows.
    pub fn new(seed: u64) -> Rng {
        Rng(seed)
    }

    /// The next number, over the whole range of u64.
    pub fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number from 0 to `below` - 1, or 0 if that range is empty.
    pub fn below(&mut self, below: usize) -> usize {
        (self.next_u64() % below.max(1) as u64) as usize
    }
}

/// The length that inputs do not grow past.
const BYTES_MAX: usize = 16 << 10;
/// Values at which integer encodings and types reach their limits.
const EDGES: [u64; 12] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 53,
    i64::MAX as u64,
    u64::MAX,
];

/// Changes `input` in one to four places. `other` is another input of the same target.
pub fn mutate(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    for _ in 0..1 + rng.below(4) {
        change(rng, input, other);
    }
    input.truncate(BYTES_MAX);
}

fn change(rng: &mut Rng, input: &mut Vec<u8>, other: &[u8]) {
    let at = rng.below(input.len());
    let end = at + rng.below(input.len() - at.min(input.len()) + 1).min(64);
    match rng.below(9) {
        0 if !input.is_empty() => input[at] ^= 1 << rng.below(8),
        1 if !input.is_empty() => input[at] = rng.next_u64() as u8,
        2 if !input.is_empty() => {
            input[at] = input[at].wrapping_add(if rng.below(2) == 0 { 1 } else { 0xff })
        }
        3 => drop(input.drain(at..end.min(input.len()))),
        4 => {
            let doubled = input[at..end.min(input.len())].to_vec();
            input.splice(at..at, doubled);
        }
        5 => {
            let from = rng.below(other.len());
            let piece = &other[from..(from + 1 + rng.below(64)).min(other.len())];
            let to = if rng.below(2) == 0 { at } else { (at + piece.len()).min(input.len()) };
            input.splice(at..to, piece.iter().copied());
        }
        6 => {
            let edge = EDGES[rng.below(EDGES.len())].to_le_bytes();
            let width = [1, 2, 4, 8][rng.below(4)].min(input.len() - at);
            input[at..at + width].copy_from_slice(&edge[..width]);
        }
        7 => {
            // The edge is written as a varint, as in most encodings here.
            let mut edge = EDGES[rng.below(EDGES.len())];
            let mut varint = Vec::new();
            while edge >= 0x80 {
                varint.push(edge as u8 | 0x80);
                edge >>= 7;
            }
            varint.push(edge as u8);
            let to = (at + 1).min(input.len());
            input.splice(at..to, varint);
        }
        _ => input.truncate(at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_inputs_stay_short() {
        let run = |seed| {
            let mut rng = Rng::new(seed);
            let mut input = b"the quick brown fox".to_vec();
            for _ in 0..10_000 {
                mutate(&mut rng, &mut input, b"jumps over the lazy dog");
            }
            input
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1), run(2));
        assert!(run(3).len() <= BYTES_MAX);
    }
}
