//! What may be set, and RocksDB's own settings that follow from it.

use hearth_ports::Table;
use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamilyDescriptor, DBCompressionType, DBRecoveryMode,
    InfoLogger, LogLevel, LruCacheOptions,
};

/// How a [`RocksEngine`](crate::RocksEngine) is opened.
pub struct Options {
    /// Blocks kept in memory, with the indexes and filters of the files, in bytes.
    pub cache_bytes: usize,
    /// Rows kept in memory until they are written out to a file, in bytes, over all tables.
    pub write_buffer_bytes: usize,
    /// Files kept open. Each costs some kB beside the cache.
    pub open_files_max: u16,
    /// Threads for reads that miss the cache.
    pub reader_threads: usize,
    /// Called, from one of the engine's threads, with what happened when a write failed: what the disk holds is known
    /// only after opening again, so the process should end. Until it does, every commit is answered as unavailable.
    pub on_fatal: Box<dyn Fn(&str) + Send + Sync>,
}

/// The least that a cache is good for.
const CACHE_BYTES_MIN: usize = 4 << 20;
/// Below this, memtables are written out as a stream of tiny files.
const WRITE_BUFFER_BYTES_MIN: usize = 4 << 20;
/// Above this, more only lengthens the replay at opening.
const WRITE_BUFFER_BYTES_MAX: usize = 64 << 20;
/// Memtables grow by so much, so that nine idle ones stay small.
const ARENA_BLOCK_BYTES: usize = 64 << 10;
/// Bodies are read one by one, so their blocks are only large enough to compress well.
const BLOCK_BYTES_EVENTS: usize = 8 << 10;
/// Rows of a few dozen bytes: a block holds about a hundred.
const BLOCK_BYTES: usize = 4 << 10;
/// Small enough that a compaction, which buffers one to find its dictionary, stays within the memory budget.
const FILE_BYTES: u64 = 16 << 20;
/// Ten bits a key give about 1 % false positives.
const BLOOM_BITS: f64 = 10.0;
/// What the events of a file have in common: field names, room and server names.
const DICTIONARY_BYTES: i32 = 16 << 10;
/// A hundred times the dictionary, as its trainer recommends.
const DICTIONARY_TRAIN_BYTES: i32 = 100 * DICTIONARY_BYTES;
/// ZSTD's own default.
const ZSTD_LEVEL: i32 = 3;

impl Options {
    /// Divides a memory budget in bytes: a quarter to write buffers, the rest to the cache.
    pub fn new(memory_bytes: usize, on_fatal: impl Fn(&str) + Send + Sync + 'static) -> Self {
        let write_buffer_bytes = (memory_bytes / 4).clamp(WRITE_BUFFER_BYTES_MIN, WRITE_BUFFER_BYTES_MAX);
        Self {
            cache_bytes: memory_bytes.saturating_sub(write_buffer_bytes).max(CACHE_BYTES_MIN),
            write_buffer_bytes,
            open_files_max: 256,
            reader_threads: 2,
            on_fatal: Box::new(on_fatal),
        }
    }

    /// The most write-ahead log that opening replays, in bytes: tables that are seldom written are flushed once the
    /// others have filled this much.
    pub const fn wal_bytes_max(&self) -> usize {
        4 * self.write_buffer_bytes
    }

    pub(crate) fn database(&self) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // Durability: an incomplete record at the end of the log is what a crash leaves, anything before it an error.
        options.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
        options.set_track_and_verify_wals_in_manifest(true);
        options.set_paranoid_checks(true);
        options.set_max_total_wal_size(self.wal_bytes_max() as u64);
        options.set_db_write_buffer_size(self.write_buffer_bytes);
        options.set_max_open_files(i32::from(self.open_files_max));
        // One compaction and one flush at a time: a homeserver's writes are few, its memory is small.
        options.set_max_background_jobs(2);
        options.set_max_subcompactions(1);
        // There is one writing thread.
        options.set_allow_concurrent_memtable_write(false);
        options.set_enable_write_thread_adaptive_yield(false);
        // Opening quickly: no reading of every file's properties, few threads.
        options.set_skip_stats_update_on_db_open(true);
        options.set_max_file_opening_threads(2);
        options.set_avoid_unnecessary_blocking_io(true);
        // Spread the writing of files over time, so that no single sync waits for a whole one.
        options.set_bytes_per_sync(1 << 20);
        options.set_manifest_preallocation_size(64 << 10);
        options.set_compaction_readahead_size(256 << 10);
        // Statistics are ours.
        options.set_stats_dump_period_sec(0);
        options.set_stats_persist_period_sec(0);
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Warn, log));
        options
    }

    /// The default family, which holds the engine's own rows, and one for each table.
    pub(crate) fn families(&self) -> Vec<ColumnFamilyDescriptor> {
        let cache = self.cache();
        let mut families = vec![ColumnFamilyDescriptor::new("default", self.family(None, &cache))];
        families.extend(
            Table::ALL.map(|table| ColumnFamilyDescriptor::new(table.name(), self.family(Some(table), &cache))),
        );
        families
    }

    fn cache(&self) -> Cache {
        let mut options = LruCacheOptions::default();
        options.set_capacity(self.cache_bytes);
        // Shards of 2 MiB and more hold any block; a few are enough for a few threads.
        options.set_num_shard_bits(if self.cache_bytes < 32 << 20 { 1 } else { 4 });
        Cache::new_lru_cache_opts(&options)
    }

    fn family(&self, table: Option<Table>, cache: &Cache) -> rocksdb::Options {
        let mut options = rocksdb::Options::default();
        options.set_write_buffer_size(self.write_buffer_bytes / 2);
        options.set_arena_block_size(ARENA_BLOCK_BYTES);
        options.set_target_file_size_base(FILE_BYTES);
        options.set_max_bytes_for_level_base(4 * FILE_BYTES);
        options.set_level_compaction_dynamic_level_bytes(true);
        options.set_compression_type(DBCompressionType::Lz4);
        if table == Some(Table::Ev) {
            const WINDOW_BITS_DEFAULT: i32 = -14;
            options.set_bottommost_compression_type(DBCompressionType::Zstd);
            options.set_bottommost_compression_options(WINDOW_BITS_DEFAULT, ZSTD_LEVEL, 0, DICTIONARY_BYTES, true);
            options.set_bottommost_zstd_max_train_bytes(DICTIONARY_TRAIN_BYTES, true);
        }
        options.set_block_based_table_factory(&blocks(table, cache));
        options
    }
}

/// Filters are on whole keys only. A prefix extractor would help no read here: ranges are arbitrary, so every scan
/// must seek in total order, which ignores prefix filters.
fn blocks(table: Option<Table>, cache: &Cache) -> BlockBasedOptions {
    let mut blocks = BlockBasedOptions::default();
    blocks.set_block_cache(cache);
    blocks.set_block_size(if table == Some(Table::Ev) { BLOCK_BYTES_EVENTS } else { BLOCK_BYTES });
    blocks.set_bloom_filter(BLOOM_BITS, false);
    blocks.set_whole_key_filtering(true);
    blocks.set_optimize_filters_for_memory(true);
    // Indexes and filters are divided into blocks and live in the cache, so that memory has one bound.
    blocks.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    blocks.set_partition_filters(true);
    blocks.set_metadata_block_size(BLOCK_BYTES);
    blocks.set_cache_index_and_filter_blocks(true);
    blocks.set_cache_index_and_filter_blocks_with_high_priority(true);
    blocks.set_pin_l0_filter_and_index_blocks_in_cache(true);
    blocks.set_pin_top_level_index_and_filter(true);
    blocks
}

/// RocksDB's own log.
fn log(level: LogLevel, message: &str) {
    let message = message.trim_end();
    match level {
        LogLevel::Error | LogLevel::Fatal => tracing::error!(message, "rocksdb"),
        LogLevel::Warn => tracing::warn!(message, "rocksdb"),
        LogLevel::Debug | LogLevel::Info | LogLevel::Header => tracing::debug!(message, "rocksdb"),
    }
}
