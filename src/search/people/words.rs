//! What a word is: how names and what is asked for are made comparable.

use icu_normalizer::DecomposingNormalizer;
use ruma::UserId;

/// Words by which somebody is found. A name of more has its first.
const WORDS_MAX: usize = 16;

/// The longest word, in bytes: what is longer is found by its beginning.
pub(super) const WORD_BYTES_MAX: usize = 48;

/// Marks that stand on letters: `é` is found as `e`, in whichever way it was written.
const MARKS: std::ops::RangeInclusive<char> = '\u{300}'..='\u{36f}';

/// The text without differences that people do not mean: of case, of width, of marks on letters.
pub(super) fn folded(text: &str) -> String {
    // Some letters have no small form until they are taken apart, and some fall apart when they are made small.
    let small = text.to_lowercase();
    let apart = DecomposingNormalizer::new_nfkd();
    let letters = apart.normalize_iter(small.chars()).filter(|c| !MARKS.contains(c) && !c.is_control());
    letters.flat_map(char::to_lowercase).collect()
}

/// The words of a folded text, each once, in order. Of a text without letters and digits: what there is between spaces.
pub(super) fn words(folded: &str) -> Vec<String> {
    let split = |is_between: fn(char) -> bool| {
        let mut words: Vec<String> = Vec::new();
        for word in folded.split(is_between).filter(|word| !word.is_empty()) {
            let word = cut(word, WORD_BYTES_MAX);
            if words.len() < WORDS_MAX && !words.iter().any(|known| known == word) {
                words.push(word.to_owned());
            }
        }
        words
    };
    let words = split(|c| !c.is_alphanumeric());
    if words.is_empty() { split(char::is_whitespace) } else { words }
}

/// The words by which somebody is found, sorted: those of their user id's localpart and of their name.
pub(super) fn words_of(user_id: &UserId, display_name: Option<&str>) -> Vec<String> {
    let mut all = words(&folded(user_id.localpart()));
    for word in words(&folded(display_name.unwrap_or_default())) {
        if all.len() < 2 * WORDS_MAX && !all.contains(&word) {
            all.push(word);
        }
    }
    all.sort();
    all
}

/// The beginning of a text, at most so many bytes of it.
pub(super) fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_mean_is_the_same_word() {
        for (one, other) in [
            ("Zoë", "ZOE"),
            ("Zoe\u{308}", "zoë"),
            ("Ｆｕｌｌ", "full"),
            ("İstanbul", "istanbul"),
            ("ﬁne", "fine"),
            ("ΣΊΣΥΦΟΣ", "σισυφος"),
            ("Ёлка", "елка"),
        ] {
            assert_eq!(folded(one), folded(other), "{one}");
        }
        assert_ne!(folded("ß"), folded("s"));
    }

    #[test]
    fn a_name_falls_into_words() {
        assert_eq!(words("jean-luc o'neill  jean"), ["jean", "luc", "o", "neill"]);
        assert_eq!(words("山田 太郎"), ["山田", "太郎"]);
        assert_eq!(words("👑 👑👑"), ["👑", "👑👑"]);
        assert_eq!(words(" \t"), [""; 0]);
        let long = "ä".repeat(100);
        assert_eq!(words(&long), ["ä".repeat(24)]);
        assert_eq!(words(&(0..100).map(|n| format!("{n} ")).collect::<String>()).len(), WORDS_MAX);
    }

    #[test]
    fn somebody_is_found_by_their_id_and_by_their_name() {
        let user_id = <&UserId>::try_from("@ann.smith:b.c").unwrap();
        assert_eq!(words_of(user_id, Some("Ann the Great")), ["ann", "great", "smith", "the"]);
        assert_eq!(words_of(<&UserId>::try_from("@_=:b.c").unwrap(), None), ["_="]);
    }
}
