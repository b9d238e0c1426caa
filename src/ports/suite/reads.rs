//! Order, ranges and pages.

use super::{
    Batch, Bytes, Engine, Entry, Key, KeyRange, Make, Page, Partition, Table, all_rows, batch, bytes, get, must_commit,
    put, scan, wait,
};

/// Keys whose order differs between bytes, signed bytes, numbers and text.
fn awkward_keys() -> Vec<Key> {
    let mut keys: Vec<Key> = [
        &[0x00_u8][..],
        &[0x00, 0x00],
        &[0x00, 0xff],
        &[0x01],
        b"a",
        b"a\x00",
        b"aa",
        b"a\xfe",
        b"a\xff",
        b"a\xff\x00",
        b"a\xff\xff",
        b"b",
        &[0x7f],
        &[0x80],
        &[0xfe, 0xff],
        &[0xff],
        &[0xff, 0x00],
        &[0xff, 0xff],
        &[0xff; Batch::KEY_BYTES_MAX],
    ]
    .into_iter()
    .map(bytes)
    .collect();
    keys.push(bytes([b'a'; Batch::KEY_BYTES_MAX]));
    keys
}

/// Writes the awkward keys in a scattered order, in several batches.
fn with_awkward_keys(make: Make<'_>) -> std::sync::Arc<dyn Engine> {
    let engine = make();
    let keys = awkward_keys();
    for step in 0..keys.len() {
        let key = &keys[step * 7 % keys.len()];
        must_commit(&*engine, batch(1, vec![put(Table::Ix, key, key)]));
    }
    engine
}

pub(super) fn keys_are_ordered_as_bytes(make: Make<'_>) {
    let engine = with_awkward_keys(make);
    let mut expected = awkward_keys();
    expected.sort();
    let found: Vec<Key> = all_rows(&*engine, Table::Ix).into_iter().map(|row| row.key).collect();
    assert_eq!(found, expected);
    let backwards = scan(&*engine, Table::Ix, KeyRange::prefix(Bytes::new()), Page::last(usize::MAX));
    let mut backwards: Vec<Key> = backwards.into_iter().map(|row| row.key).collect();
    backwards.reverse();
    assert_eq!(backwards, expected);
}

pub(super) fn prefixes_end_where_they_should(make: Make<'_>) {
    let engine = with_awkward_keys(make);
    let prefixes: [&[u8]; 10] =
        [b"", b"a", b"a\xff", b"a\xff\xff", b"b", b"c", &[0x00], &[0x80], &[0xff], &[0xff, 0xff]];
    for prefix in prefixes {
        let mut expected: Vec<Key> = awkward_keys().into_iter().filter(|key| key.starts_with(prefix)).collect();
        expected.sort();
        for page in [Page::first(100), Page::last(100)] {
            let mut found: Vec<Key> =
                scan(&*engine, Table::Ix, KeyRange::prefix(prefix), page).into_iter().map(|row| row.key).collect();
            if page.reverse {
                found.reverse();
            }
            assert_eq!(found, expected, "prefix {prefix:?}, {page:?}");
        }
    }
}

pub(super) fn odd_ranges_are_empty(make: Make<'_>) {
    let engine = with_awkward_keys(make);
    let range = |from: &[u8], until: Option<&[u8]>| KeyRange { from: bytes(from), until: until.map(bytes) };
    let odd = [
        range(b"a", Some(b"a")),                        // nothing lies between a key and itself
        range(b"b", Some(b"a")),                        // the wrong way round
        range(b"b\x00", Some(&[0x7f])),                 // a gap between rows
        range(&[0xff; Batch::KEY_BYTES_MAX + 1], None), // behind the last row
        range(b"", Some(&[])),                          // before the first row
    ];
    for range in odd {
        for page in [Page::first(10), Page::last(10)] {
            assert_eq!(scan(&*engine, Table::Ix, range.clone(), page), [], "{range:?}, {page:?}");
        }
    }
    for page in [Page::first(0), Page::last(0)] {
        assert_eq!(scan(&*engine, Table::Ix, KeyRange::prefix(b"a".as_slice()), page), [], "no row was asked for");
    }
    // The end is excluded, the beginning included.
    let rows = scan(&*engine, Table::Ix, range(b"a", Some(b"aa")), Page::first(10));
    assert_eq!(rows.iter().map(|row| &row.key[..]).collect::<Vec<_>>(), [&b"a"[..], b"a\x00"]);
}

pub(super) fn pages_resume_in_both_directions(make: Make<'_>) {
    let engine = make();
    // Values of 0 to 60 bytes, so that pages end for both reasons; rows on both sides that belong to no page.
    let inside = |number: u32| [&b"p"[..], &number.to_be_bytes()].concat();
    let mut puts: Vec<_> = (0..257).map(|n| put(Table::Rm, inside(n), vec![7; n as usize * 13 % 61])).collect();
    puts.push(put(Table::Rm, b"o", b"before"));
    puts.push(put(Table::Rm, b"q", b"behind"));
    must_commit(&*engine, Batch { put: puts, ..Batch::new(Partition::of(5)) });

    let whole = scan(&*engine, Table::Rm, KeyRange::prefix(b"p".as_slice()), Page::first(1_000));
    assert_eq!(whole.len(), 257);
    for (rows_max, bytes_max) in [(1, 1 << 20), (7, 1 << 20), (257, 1 << 20), (1_000, 1), (1_000, 100), (5, 150)] {
        for (reverse, in_passing) in [(false, false), (true, false), (false, true)] {
            let page = Page { rows_max, bytes_max, reverse, in_passing };
            let mut expected = whole.clone();
            if reverse {
                expected.reverse();
            }
            assert_eq!(read_in_pages(&*engine, page), expected, "{page:?}");
        }
    }
}

/// All pages in turn, each of which must be exactly as long as its bounds say.
fn read_in_pages(engine: &dyn Engine, page: Page) -> Vec<Entry> {
    let mut range = KeyRange::prefix(b"p".as_slice());
    let mut rows = Vec::new();
    loop {
        let found = scan(engine, Table::Rm, range.clone(), page);
        let Some(last) = found.last() else { return rows };
        let size = |rows: &[Entry]| rows.iter().map(|row| row.key.len() + row.value.len()).sum::<usize>();
        assert!(found.len() <= page.rows_max, "{} rows, {page:?}", found.len());
        assert!(size(&found[..found.len() - 1]) < page.bytes_max, "the page goes on behind its bound, {page:?}");
        if page.reverse {
            range.until = Some(last.key.clone());
        } else {
            range.from = [&last.key[..], &[0]].concat().into();
        }
        let full = found.len() == page.rows_max || size(&found) >= page.bytes_max;
        rows.extend(found);
        if !full {
            assert_eq!(scan(engine, Table::Rm, range, page), [], "a short page is the last, {page:?}");
            return rows;
        }
    }
}

pub(super) fn multi_get_keeps_the_order(make: Make<'_>) {
    let engine = make();
    let rows = ["b", "d", "a"].map(|key| put(Table::Us, key, format!("value of {key}")));
    must_commit(&*engine, batch(2, [rows.to_vec(), vec![put(Table::Us, "empty", "")]].concat()));
    let keys = ["d", "c", "a", "d", "empty", "b"].map(bytes);
    let found = wait(engine.multi_get(Table::Us, &keys)).expect("the engine can be read");
    let value = |key: &str| Some(bytes(format!("value of {key}")));
    assert_eq!(wait(engine.multi_get_in_passing(Table::Us, &keys)).expect("the engine can be read"), found);
    assert_eq!(found, [value("d"), None, value("a"), value("d"), Some(Bytes::new()), value("b")]);
    assert_eq!(wait(engine.multi_get(Table::Us, &[])).expect("the engine can be read"), []);
    assert_eq!(get(&*engine, Table::Us, "empty"), Some(Bytes::new()), "an empty value is not an absent one");
}

pub(super) fn tables_are_separate(make: Make<'_>) {
    let engine = make();
    let rows = Table::ALL.into_iter().skip(1).map(|table| put(table, "key", table.name())).collect();
    must_commit(&*engine, batch(3, rows));
    assert_eq!(get(&*engine, Table::ALL[0], "key"), None);
    for table in Table::ALL.into_iter().skip(1) {
        assert_eq!(get(&*engine, table, "key"), Some(bytes(table.name())));
        assert_eq!(all_rows(&*engine, table).len(), 1, "an engine keeps its own rows out of sight");
    }
}
