//! Which partition of the queue is a contact's: what the producer's partitioner (`murmur2_random`, the Java client's)
//! makes of the key; and what is left of that when the number of partitions changes.

/// The partition of a key, of so many.
pub fn partition_of(key: &[u8], partitions: i32) -> i32 {
    (murmur2(key) & i32::MAX) % partitions.max(1)
}

/// As `org.apache.kafka.common.utils.Utils.murmur2`.
fn murmur2(data: &[u8]) -> i32 {
    const M: u32 = 0x5bd1_e995;
    let mut hash = 0x9747_b28c_u32 ^ data.len() as u32;
    let (words, rest) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> 24;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !rest.is_empty() {
        let tail = rest.iter().rev().fold(0, |tail, byte| tail << 8 | u32::from(*byte));
        hash = (hash ^ tail).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 13).wrapping_mul(M);
    (hash ^ hash >> 15) as i32
}

/// The partitions that share contacts when the number of them changes. A contact that was in `p` of one number can be in `q`
/// of another only if `q ≡ p` modulo what the two have in common: both leave the same remainder of the key's hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Classes {
    modulus: usize,
}

impl Classes {
    /// Of these numbers of partitions, whichever of them a contact was keyed by.
    pub fn of(numbers: &[usize]) -> Classes {
        Classes { modulus: numbers.iter().copied().fold(0, gcd).max(1) }
    }

    /// How many there are; each stands for itself.
    pub fn count(self) -> usize {
        self.modulus
    }

    /// The members of one class among so many partitions.
    pub fn members(self, class: usize, partitions: usize) -> impl Iterator<Item = usize> {
        (class..partitions).step_by(self.modulus)
    }
}

fn gcd(a: usize, b: usize) -> usize {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn it_hashes_as_the_java_client_does() {
        // From Kafka's own test, UtilsTest.testMurmur2.
        for (key, expected) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn doubling_moves_contacts_to_one_other_partition_only() {
        let classes = Classes::of(&[6, 6, 12]);
        assert_eq!(classes.count(), 6);
        assert_eq!(classes.members(1, 12).collect::<Vec<_>>(), [1, 7]);
        let all = Classes::of(&[3, 4]);
        assert_eq!((all.count(), all.members(0, 4).count()), (1, 4));
    }

    proptest! {
        #[test]
        fn a_contact_stays_in_its_class_whichever_number_it_was_keyed_by(
            contact in "[a-z0-9.+]{1,12}@[a-z]{1,8}\\.com",
            numbers in proptest::collection::vec(1_usize..200, 1..4),
        ) {
            let classes = Classes::of(&numbers);
            let class = partition_of(contact.as_bytes(), numbers[0] as i32) as usize % classes.count();
            for number in numbers {
                let now = partition_of(contact.as_bytes(), number as i32) as usize;
                prop_assert!(classes.members(class, number).any(|member| member == now));
            }
        }
    }
}
