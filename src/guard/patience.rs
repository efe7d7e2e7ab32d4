//! How often something is put back that others take away. Pure: it is told the time.

use std::time::{Duration, Instant};

/// So many takings-away in a row are put back at once.
const BURST: u32 = 10;
/// In the long run, one in so long.
const EACH: Duration = Duration::from_secs(1);
/// After the burst a pause comes before each further one, twice as long as the one before, up to this.
const LONGEST: Duration = Duration::from_secs(60);
/// What stays for so long longer than the pause before it has been won.
const PEACE: Duration = Duration::from_secs(10);

/// What others have taken away so far.
#[derive(Debug)]
pub struct Patience {
    /// When all will be forgotten that has been taken (a virtual clock that each taking sets forward: GCRA).
    debt: Instant,
    /// When the last one was put back.
    last: Instant,
    /// Before the next one may be put back; zero: none.
    pause: Duration,
}

impl Patience {
    /// Nothing has been taken away yet.
    pub fn new(now: Instant) -> Patience {
        Patience { debt: now, last: now, pause: Duration::ZERO }
    }

    /// Something has just been put back that somebody had taken away. Returns how long it has to stay away, if it is taken
    /// once more.
    pub fn put_back(&mut self, now: Instant) -> Duration {
        if now.duration_since(self.last) > PEACE + self.pause {
            *self = Patience::new(now);
        }
        self.last = now;
        self.debt = self.debt.max(now) + EACH;
        if !self.pause.is_zero() || self.debt.duration_since(now) > EACH * BURST {
            self.pause = (self.pause * 2).clamp(EACH, LONGEST);
        }
        self.pause
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn pauses(patience: &mut Patience, now: &mut Instant, each: Duration, count: usize) -> Vec<u64> {
        (0..count)
            .map(|_| {
                let pause = patience.put_back(*now);
                *now += pause.max(each);
                pause.as_secs()
            })
            .collect()
    }

    #[test]
    fn a_tight_loop_is_left_more_and_more_time() {
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        let pauses = pauses(&mut patience, &mut now, Duration::from_millis(1), 20);
        assert_eq!(pauses, [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60, 60, 60]);
    }

    #[test]
    fn once_a_second_is_no_fight() {
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        assert_eq!(pauses(&mut patience, &mut now, SECOND, 200), [0; 200]);
    }

    #[test]
    fn what_stays_has_been_won() {
        let mut now = Instant::now();
        let mut patience = Patience::new(now);
        assert_eq!(pauses(&mut patience, &mut now, Duration::ZERO, 12).last(), Some(&2));
        now += PEACE; // the last pause is over already
        assert_eq!(patience.put_back(now), 4 * SECOND);
        now += 4 * SECOND + PEACE + Duration::from_millis(1);
        assert_eq!(patience.put_back(now), Duration::ZERO);
    }
}
