//! Filters by what a key is: the source is asked about type, TTL and size before a page is entered into the
//! books, so that what is left out is neither counted nor read.
//!
//! Invariant: a partition's next page is asked for when this one is entered: pages stay in the order of the
//! scan.

use crate::reply::is_elsewhere;
use crate::resp::{Decoded, ProtocolError, Reply, decode, encode};
use crate::source::fetch::{Ask, Ended};
use crate::source::page::Keys;
use crate::source::passing_on::concerns_one_key;
use crate::source::reader::SourceReader;
use crate::transform::filter::Question;

/// A page whose keys are being asked about.
#[derive(Debug)]
pub(crate) struct ValueMatch {
    scanner: usize,
    keys: Keys,
    /// Answers so far.
    answers: usize,
    /// Whether each key is taken, for those that were answered for.
    taken: Vec<bool>,
}

impl SourceReader {
    /// Ask about the keys of a scanner's page.
    pub(crate) fn match_values(&mut self, scanner: usize, keys: Keys) {
        self.engine.budget.hold_names(keys.weight());
        let number = self.value_matches.insert(ValueMatch {
            scanner,
            keys,
            answers: 0,
            taken: Vec::new(),
        });
        self.ask_about(number);
    }

    fn ask_about(&mut self, number: usize) {
        let out = self.out.tail();
        for (key, _) in self.value_matches[number].keys.iter() {
            for question in &self.questions {
                match question {
                    Question::Type => encode::type_of(out, key),
                    Question::Ttl => encode::command(out, &[b"PTTL", key]),
                    Question::Size => encode::memory_usage(out, key),
                }
            }
        }
        self.asked.push_back(Ask::ValueMatch { filter: number });
    }

    /// What was asked on a connection that is lost is asked again.
    pub(crate) fn ask_values_anew(&mut self) {
        let numbers: Vec<usize> = self.value_matches.iter().map(|(number, _)| number).collect();
        for number in numbers {
            self.value_matches[number].answers = 0;
            self.value_matches[number].taken.clear();
            self.ask_about(number);
        }
    }

    /// Read the answers; the keys that are taken are entered.
    pub(crate) fn read_value_match(
        &mut self,
        number: usize,
        data: &[u8],
    ) -> Result<(usize, Option<Ask>, usize), Ended> {
        let mut at = 0;
        let is_node = self.engine.spec.source_cluster.is_some();
        let asking = &mut self.value_matches[number];
        let Some(filter) = &self.engine.spec.value_filter else {
            unreachable!("without a filter nothing is asked")
        };
        while asking.answers < asking.keys.len() * self.questions.len() {
            let (reply, used) = match decode(&data[at..])? {
                Decoded::Partial(need) => return Ok((at, Some(Ask::ValueMatch { filter: number }), need)),
                Decoded::Whole(reply, used) => (reply, used),
            };
            let place = asking.answers % self.questions.len();
            let passes = match (self.questions[place], reply) {
                (Question::Type, Reply::Simple(name)) => filter.takes_type(name),
                (Question::Ttl, Reply::Integer(left)) => filter.takes_ttl(left),
                (Question::Size, Reply::Integer(bytes)) => filter.takes_size(Some(bytes)),
                (Question::Size, Reply::Bulk(None)) => filter.takes_size(None),
                // The key's read will be answered likewise, and tells of it.
                (_, Reply::Error(error)) if error.starts_with(b"NOPERM") && concerns_one_key(error) => true,
                (_, Reply::Error(error)) if is_node && is_elsewhere(error) => true,
                (question, Reply::Error(error)) => {
                    let command = match question {
                        Question::Type => "TYPE",
                        Question::Ttl => "PTTL",
                        Question::Size => "MEMORY USAGE",
                    };
                    return Err(self.refusal(command, error));
                }
                _ => return Err(ProtocolError::at(&data[at..]).into()),
            };
            at += used;
            asking.answers += 1;
            match asking.taken.last_mut() {
                Some(taken) if place > 0 => *taken &= passes,
                _ => asking.taken.push(passes),
            }
        }
        let ValueMatch {
            scanner,
            mut keys,
            taken,
            ..
        } = self.value_matches.remove(number);
        self.progress += 1;
        self.engine.budget.free_names(keys.weight());
        keys.retain_marked(&taken);
        self.enter(scanner, keys, 0);
        Ok((at, None, 0))
    }
}
