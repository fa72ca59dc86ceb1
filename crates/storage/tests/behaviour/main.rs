//! The promises of every engine, as one suite: the same cases run on RocksDB and in memory.

mod history;
mod lives;
mod log_and_table;
mod model;
mod node;
mod store;

use history::*;
use lives::*;
use log_and_table::*;
use model::*;
use node::*;
use store::{Memory, Rocks, Rows};

macro_rules! suite {
    ($($case:ident)*) => {
        mod rocks { $(#[test] fn $case() { super::$case::<super::Rocks>() })* }
        mod memory { $(#[test] fn $case() { super::$case::<super::Memory>() })* }
    };
}

suite! {
    an_unknown_shard_is_empty
    everything_written_is_recovered
    a_write_replaces_and_deletes
    a_replaced_tail_is_gone
    truncation_drops_up_to_and_including
    a_reset_wipes_all_but_history
    a_reset_and_its_replacement_come_in_one_write
    shards_do_not_touch_each_other
    the_last_write_of_a_shard_in_one_call_wins
    what_was_written_is_read_at_once
    a_log_outlives_its_segments
    a_tail_that_outlived_its_segment_is_replaced
    a_gap_in_the_log_is_damage
    an_empty_write_is_fine
    history_is_newest_first_by_token
    history_of_similar_names_is_apart
    history_pages_resume
    a_name_is_found_wherever_its_tenures_come
    a_part_of_an_entry_from_a_peer_takes_nothing_away
    random_history_matches_a_model
    history_pages_stay_in_their_shard
    old_days_are_dropped
    a_destroyed_replica_is_gone_for_good
    one_life_is_here_at_a_time
    lives_in_one_segment_are_told_apart
    a_drop_reaches_what_outlived_its_segment
    data_of_before_births_belong_to_the_life_that_is_hosted
    a_drop_counts_as_a_record
    a_write_between_two_lives_is_refused
    boots_count_up
    the_nodes_own_records_stay
    a_stranger_is_refused
    a_format_is_raised_on_demand_and_never_falls
    random_writes_match_a_model
}

/// What a store does with its history, in rows of many tenures.
mod rows {
    macro_rules! cases {
        ($($case:ident)*) => { $(#[test] fn $case() { super::$case::<super::Rows>() })* };
    }
    cases! {
        history_is_newest_first_by_token
        history_of_similar_names_is_apart
        history_pages_resume
        history_pages_stay_in_their_shard
        a_name_is_found_wherever_its_tenures_come
        a_part_of_an_entry_from_a_peer_takes_nothing_away
        random_history_matches_a_model
        old_days_are_dropped
        a_reset_wipes_all_but_history
        a_destroyed_replica_is_gone_for_good
        one_life_is_here_at_a_time
        random_writes_match_a_model
    }
}
