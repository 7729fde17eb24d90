//! What every database must do, each case on each of them.

mod cancel;
mod claim;
mod commit;
mod due;
mod gate;
mod handle;
mod held;
mod lease;
mod limits;
mod list;
mod log;
mod models;
mod pending;
mod rank;
mod rates;
mod settle;
mod share;
mod shortage;
mod submit;
mod wait;

/// Makes a test of every case for one database; what must always be true is checked after each.
macro_rules! run_on {
    ($database:ident, $kind:expr, $($file:ident: [$($case:ident),+ $(,)?])+) => {
        mod $database {
            $(mod $file {
                use crate::store::fixture::{Kind, TestStore};
                $(
                    #[tokio::test]
                    async fn $case() {
                        let t = TestStore::open($kind).await;
                        crate::store::conformance::$file::$case(&t).await;
                        t.check().await;
                    }
                )+
            })+
        }
    };
}

/// Lists the cases once, for every database.
macro_rules! conformance {
    ($($cases:tt)+) => {
        run_on!(memory, Kind::Memory, $($cases)+);
        run_on!(sqlite, Kind::Sqlite, $($cases)+);
        run_on!(postgres, Kind::Postgres, $($cases)+);
    };
}

conformance! {
    submit: [
        a_new_execution_is_pending_and_in_the_log,
        what_was_submitted_is_read_back_as_it_was,
        a_repeated_request_is_answered_with_the_first_execution,
        a_request_id_reused_for_another_request_is_a_conflict_that_names_the_first,
        a_request_repeated_within_a_batch_gives_one_execution,
        a_conflict_anywhere_in_a_batch_stores_nothing_of_it,
        concurrent_submits_of_one_request_give_one_execution,
        an_execution_read_twice_at_once_is_whole_both_times,
        a_read_without_payload_leaves_out_input_and_output,
        unknown_executions_are_left_out,
    ]
    claim: [
        claims_take_the_interrupted_first_then_priority_due_time_and_id,
        a_claim_takes_no_more_than_is_wanted,
        a_claim_never_exceeds_the_limit,
        a_lowered_limit_lets_what_runs_go_on_and_admits_nothing,
        a_raised_limit_admits_more_at_once,
        many_claims_at_once_share_one_limit,
        a_provider_named_twice_in_a_claim_stays_within_its_limit,
        one_providers_limit_does_not_bind_another,
        an_undeclared_provider_gives_nothing,
        a_claim_tells_what_to_run_and_how_busy_the_provider_was,
        a_settlement_and_a_claim_at_once_reuse_the_room,
    ]
    rank: [
        a_lower_priority_submitted_long_enough_before_goes_first,
        one_at_a_time_they_go_in_the_same_order,
        a_retry_keeps_its_head_start,
        an_uncharged_retry_without_delay_keeps_its_place,
    ]
    rates: [
        no_more_requests_begin_within_a_minute_than_the_budget_admits,
        no_more_tokens_begin_within_a_minute_than_the_budgets_admit,
        a_models_budget_holds_back_its_own_work_only,
        a_settlement_with_less_usage_frees_what_it_did_not_take,
        a_settlement_with_more_usage_takes_it,
        what_ends_after_its_minute_leaves_the_budget_as_it_is,
        what_asks_for_more_than_the_budget_begins_when_nothing_else_did,
        a_large_one_is_not_overtaken_by_small_ones_behind_it,
        what_is_only_to_be_stopped_takes_nothing_of_a_budget,
    ]
    held: [
        what_is_held_back_is_told_and_not_again_within_ten_seconds,
        what_is_held_back_is_taken_back_when_nothing_is,
        what_is_held_back_is_taken_back_when_all_that_waited_is_cancelled,
        what_is_held_back_is_told_anew_when_a_pause_is_over,
    ]
    models: [
        a_models_gate_closes_for_its_own_work_only,
        a_closed_models_gate_is_tried_and_opened_by_an_answer,
        an_operator_opens_a_models_gate,
        what_waits_in_another_models_lane_moves,
        what_waits_in_a_models_lane_is_found_when_its_limits_are_gone,
        what_is_stopped_behind_a_models_gate_is_within_the_limit,
        what_waits_behind_a_models_gate_is_cancelled_and_stopped,
    ]
    pending: [
        a_full_queue_takes_nothing_more_until_something_starts,
        a_batch_that_does_not_fit_stores_nothing_of_it,
        a_repeated_request_passes_a_full_queue,
        submissions_at_once_fill_a_queue_exactly,
    ]
    share: [
        a_worker_that_shares_takes_its_share_and_tells_what_it_left,
        a_share_is_of_the_limit_in_force,
        more_workers_than_room_have_a_share_of_one,
        what_a_share_takes_up_is_not_left,
        what_is_left_to_others_does_not_say_that_it_waits,
        a_claim_takes_no_more_than_there_are_slots_for,
        few_slots_go_to_the_provider_that_runs_least,
        kept_slots_are_for_providers_that_run_nothing,
        slots_that_one_provider_does_not_use_are_offered_again,
        what_no_slot_is_free_for_says_that_it_waits,
    ]
    gate: [
        a_paused_provider_gives_nothing_until_it_is_resumed,
        a_pause_kills_nothing,
        what_is_noted_of_a_paused_provider_is_kept,
        a_timed_pause_ends_by_itself,
        a_pause_that_is_resumed_by_hand_is_not_resumed_again,
        pausing_or_resuming_twice_changes_nothing,
        an_unknown_provider_cannot_be_paused,
        a_rate_limit_outlives_a_pause_and_ends_with_a_resumption,
        a_pause_and_an_advance_at_once_agree_on_what_is_due_next,
        a_probe_that_saw_nothing_makes_way_for_the_next,
    ]
    shortage: [
        a_shortage_is_told_once_work_has_waited,
        only_figures_that_moved_are_told_again,
        work_that_has_no_room_does_not_wait_for_a_machine,
        a_claim_by_anybody_ends_a_shortage,
        a_claim_that_gets_nothing_ends_no_shortage,
        a_shortage_is_taken_back_by_whoever_told_of_it,
        a_pause_takes_the_place_of_a_shortage,
    ]
    due: [
        a_scheduled_execution_is_claimed_only_when_it_is_due,
        a_retry_waits_for_its_backoff,
        a_retry_without_delay_is_ready_at_once,
        a_queue_timeout_fails_what_was_never_started,
        a_queue_timeout_counts_from_the_schedule_time,
        a_queue_timeout_does_not_touch_what_was_started_once,
        a_queue_timeout_passes_while_the_provider_is_paused,
        the_next_due_time_is_the_earliest_of_all,
        what_is_due_beyond_one_transaction_follows_in_the_next,
    ]
    lease: [
        a_lease_is_reclaimed_only_after_its_expiry_and_the_grace,
        a_renewed_lease_is_not_reclaimed,
        a_renewal_tells_which_leases_are_lost_and_which_are_to_be_cancelled,
        recovery_takes_back_what_other_workers_left_running,
        a_stale_lease_changes_nothing,
        the_lease_of_another_worker_changes_nothing,
        a_lease_ends_with_the_settlement,
        a_lost_lease_counts_against_the_limit_until_it_is_reclaimed,
    ]
    handle: [
        a_handle_comes_with_every_claim_after_a_loss,
        an_attempt_after_a_failure_begins_anew,
        a_stale_lease_attaches_nothing,
        what_goes_on_at_its_provider_is_claimed_to_be_stopped_there,
        what_is_to_be_stopped_passes_a_closed_gate,
        what_cannot_be_stopped_ends_with_the_third_crash,
        what_must_not_be_repeated_fails_when_it_is_lost,
        tokens_are_summed_by_provider_whatever_became_of_the_attempt,
    ]
    settle: [
        a_success_keeps_its_result_and_usage,
        a_failure_keeps_what_there_is_of_a_result,
        a_retry_keeps_count_of_attempts,
        an_uncharged_retry_costs_no_attempt,
        a_crash_is_uncharged_and_tried_again_first,
        the_third_crash_is_the_last,
        a_release_is_uncharged_and_tried_again_first,
        a_result_of_any_text_is_read_back_as_it_was,
    ]
    cancel: [
        a_pending_execution_is_cancelled_at_once_and_never_claimed,
        a_scheduled_execution_is_cancelled_at_once,
        a_running_execution_is_asked_to_stop_and_ends_cancelled,
        a_cancellation_keeps_its_first_reason,
        a_finished_execution_is_left_as_it_is,
        work_that_ends_well_before_it_is_stopped_succeeds,
        a_retry_ends_cancelled_once_a_stop_was_asked_for,
        a_release_ends_cancelled_once_a_stop_was_asked_for,
        a_crash_ends_cancelled_once_a_stop_was_asked_for,
        a_lost_lease_ends_cancelled_once_a_stop_was_asked_for,
        unknown_ids_are_left_out_of_the_answer,
        an_id_given_twice_is_cancelled_once,
    ]
    wait: [
        what_finds_room_waits_for_nothing_and_the_rest_for_the_limit,
        what_a_claim_leaves_behind_says_that_it_waits_for_the_limit,
        what_becomes_due_without_room_waits_for_the_limit,
        what_waits_for_the_limit_is_claimed_when_there_is_room,
        a_scheduled_execution_says_until_when,
        who_comes_after_the_waiting_waits_too,
    ]
    log: [
        the_log_says_exactly_what_happened,
        entries_are_given_from_a_revision_on_up_to_a_number,
        the_log_of_one_execution_has_its_providers_gate_and_nothing_of_others,
        output_is_left_out_unless_asked_for,
        the_gate_can_be_looked_up_at_any_revision,
        commits_are_announced_in_order_and_without_gaps,
        output_of_any_bytes_is_read_back_as_it_was,
    ]
    list: [
        executions_are_listed_newest_first,
        filters_leave_only_what_matches,
        labels_match_only_when_all_do,
        pages_are_stable_while_executions_are_added,
        executions_run_again_can_be_left_out,
        totals_count_everything,
        workers_are_listed_as_they_last_were,
    ]
    limits: [
        declaring_the_same_again_changes_nothing,
        an_override_outlives_a_new_declaration_until_it_is_reset,
        limits_changed_since_the_expected_revision_are_left_alone,
        limits_changed_at_the_same_moment_are_left_alone,
        the_expected_revision_counts_limits_that_are_kept,
        validating_changes_nothing,
        an_unknown_provider_leaves_all_limits_alone,
        no_more_models_have_limits_than_a_provider_may_have,
        limits_set_for_a_time_return_to_what_they_were,
        changes_of_limits_are_read_newest_first,
        providers_are_shown_with_what_they_have_to_do,
        limits_set_for_a_time_return_to_what_was_before,
        limits_set_for_a_time_twice_return_to_what_held_for_good,
        what_is_set_for_good_meanwhile_stays,
        a_limit_that_moves_by_itself_stays_within_its_bounds,
    ]
    commit: [
        operations_that_wait_together_share_a_commit_and_get_their_own_answers,
        an_operation_whose_caller_went_away_is_still_done,
        an_operation_that_fails_does_not_take_its_neighbours_down,
        a_closed_store_finishes_what_it_was_given,
    ]
}
