"""The promise, sentence by sentence and fault by fault, and for each the tests that show it.

docs/promise.md has every fault; README has the promise itself and the faults in short. A sentence without a test, a
fault without a row, and a test that is gone all fail here, so that neither page can promise more than is seen.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
ROOT = TESTS.parent

# README's paragraph, by how each of its sentences begins.
SENTENCES = {
    "A CSV that became ready in a watched folder ends in exactly one of": [
        "crash.a_crash_at_every_step",
        "kill9.random_kills_under_load",
        "power.power_cuts_in_the_middle_of_the_work",
    ],
    "It is never lost and the original is never altered.": [
        "pipeline.what_is_sent_is_the_prepared_copy_and_what_is_filed_the_original",
        "syscalls.a_kill_at_each_system_call",
    ],
    "What passes its check is offered to OptiPub at least once, unless": [
        "kill9.random_kills_under_load",
        "delivery.the_same_file_again_goes_to_done_unsent",
        "delivery.a_newer_full_load_takes_the_place_of_those_that_wait",
        "delivery.what_a_person_gives_up_is_filed_at_once",
    ],
    "It is offered again only when": [
        "optipub.every_answer_has_its_event",
        "delivery.a_lost_answer_is_repeated_within_its_window_and_owned_up_to",
        "policy.each_mode_has_its_window",
        "orders.retry_of_an_unknown_drop_offers_it_again_and_owns_up",
    ],
    "Files of one segment are offered in the order in which they became ready;": [
        "daemon.files_of_one_segment_arrive_in_order_through_deferrals",
        "intake.files_are_taken_in_the_order_in_which_they_became_ready",
        "pipeline.a_held_drop_does_not_keep_its_lane_waiting",
        "policy.what_blocks_its_lane",
    ],
    "*Accepted* means that": [
        "orders.accept_files_what_an_operator_has_found",
        "optipub.no_answer_makes_the_table_fail",
        "optipub.every_answer_has_its_event",
    ],
}

# The rows of docs/promise.md, by their first cell.
FAULTS = {
    "the upload is still going on, or pauses": [
        "intake.a_file_that_a_program_has_open_for_writing_stays",
        "intake.each_event_starts_the_quiet_time_again",
        "intake_clients.each_upload_is_taken_once_and_whole",
        "intake_ftp.each_upload_is_taken_once_and_whole",
        "asking.why_of_a_file_that_waits",
        "asking.why_of_a_file_that_is_open_for_writing",
    ],
    "the client dies in mid-line": [
        "intake.a_file_without_its_last_newline_waits_for_the_rest",
        "delivery.a_file_cut_off_in_a_row_is_held_as_incomplete",
        "incidents.half_a_file",
        "readiness.a_folder_may_require_the_final_newline",
    ],
    "the client dies at the end of a line, under the final name": [
        "delivery.a_file_cut_off_between_two_rows_looks_whole",
        "delivery.a_short_full_load_wipes_nothing",
        "readiness.without_its_marker_no_file_is_ready",
    ],
    "a temporary name, a folder, a link, a pipe, a second hard link": [
        "readiness.names_of_unfinished_and_foreign_files_are_ignored",
        "readiness.a_second_link_is_waited_for_and_then_refused",
        "hostile.what_is_no_plain_file_is_named_once_and_stays",
        "intake.uploads_that_nobody_will_finish_are_reported_once_for_all",
        "asking.why_of_a_file_that_is_ignored",
        "asking.why_of_what_is_no_acceptable_file",
    ],
    "its marker does not come, or its checksum does not fit": [
        "markers.a_file_without_its_marker_is_reported_once",
        "markers.a_file_that_never_fits_stays_and_is_reported_once",
        "markers.what_a_client_changes_after_the_claim_is_held",
        "markers.what_a_fresh_look_says_of_each_file",
    ],
    "the daemon may not read it": [
        "hostile.a_file_that_nobody_else_may_read_is_told_with_the_very_command",
        "doctor.an_unreadable_file_of_a_partner_is_a_fault",
    ],
    "events are lost (overflow, a mount, a limit of the kernel)": [
        "daemon.the_scan_finds_what_no_event_told_of",
        "intake.what_is_heard_of_beyond_that_is_found_by_the_scan",
        "watch.a_queue_that_overflows_is_told_and_works_on",
        "watch.a_file_system_mounted_over_the_inbox_is_watched",
        "watch.a_limit_of_watches_is_told_once_and_overcome",
    ],
    "something that can be read in one way only: BOM, CRLF, blanks, upper case, another order": [
        "sheet.each_repair_is_made_and_counted",
        "pipeline.what_is_sent_is_the_prepared_copy_and_what_is_filed_the_original",
        "receipt.what_was_repaired_is_counted_by_kind",
    ],
    "bad rows, up to `bad_rows:`": [
        "pipeline.a_few_bad_rows_that_the_folder_allows_stay_behind",
        "sheet.tolerance",
    ],
    "it still changes after it was taken over": [
        "pipeline.a_file_that_a_client_still_writes_to_is_put_off",
        "pipeline.a_file_that_changes_while_it_is_read_is_put_off",
        "pipeline.a_file_that_changes_between_its_check_and_its_attempt_is_read_again",
        "pipeline.a_file_that_changes_after_it_was_sent_says_so",
    ],
    "more bad rows; a header that cannot be": [
        "pipeline.a_refused_file_is_failed_with_line_column_and_reason",
        "sheet.a_header_that_cannot_be_read_refuses_the_file",
    ],
    "empty; far too short, long, large, many; shrunk with `clear: true`": [
        "markers.what_becomes_of_an_empty_file",
        "policy.a_breach_holds_with_its_figures",
        "pipeline.each_guard_holds_with_its_reason_until_a_person_lets_it_go",
        "delivery.a_flood_is_held",
        "delivery.a_short_full_load_wipes_nothing",
        "incidents.a_full_load_that_is_far_too_short",
        "orders.discard_hold_and_ids_from_standard_input",
    ],
    "the same content was accepted before, within `duplicates_within:`": [
        "delivery.the_same_file_again_goes_to_done_unsent",
        "delivery.who_leaves_again_after_coming_back_is_not_mailed",
        "policy.duplicates_may_be_held_or_sent",
    ],
    "a newer full load of the folder came, with `supersede: true`": [
        "delivery.a_newer_full_load_takes_the_place_of_those_that_wait",
        "delivery.a_full_load_that_is_held_is_superseded_too",
        "delivery.a_full_load_that_optipub_may_have_is_never_superseded",
        "delivery.one_that_optipub_may_have_stays_between_two_that_are_superseded",
        "delivery.what_is_held_as_unknown_stays_though_its_folder_got_another_segment",
    ],
    "a file that kills the program which reads it, twice": [
        "crash.a_file_that_ends_the_program_twice_is_not_read_a_third_time",
        "pipeline.a_file_that_ended_the_program_twice_is_held_until_somebody_looked",
    ],
    "OptiPub says no (201 with an error, 302 that names no login, any other 4xx)": [
        "answers.each_answer_ends_in_its_state",
        "pipeline.a_redirect_is_a_refusal_and_is_not_repeated",
        "optipub.no_redirect_is_followed",
        "delivery.two_refusals_pause_the_account_before_a_hundred_files_fail",
    ],
    "429, 503": [
        "pipeline.a_deferred_drop_waits_for_its_stored_time_through_a_restart",
        "account.what_is_asked_to_wait_is_ready_by_itself",
        "answers.each_answer_ends_in_its_state",
    ],
    "408, 425": [
        "daemon.files_of_one_segment_arrive_in_order_through_deferrals",
        "answers.each_answer_ends_in_its_state",
    ],
    "401, 403, 407, a login page, a redirect elsewhere, a certificate that is not valid": [
        "daemon.a_dead_key_stops_every_lane_of_its_account",
        "delivery.a_new_key_file_lets_a_paused_account_try_at_once",
        "daemon.a_reload_tries_a_paused_account_at_once",
        "delivery.a_resume_tries_a_paused_account_at_once",
        "answers.each_answer_ends_in_its_state",
        "optipub.every_answer_has_its_event",
    ],
    "no connection, no name, broken before the whole file had left": [
        "pipeline.delays_grow_while_nobody_answers",
        "delivery.five_failures_open_the_breaker_and_one_drop_tries",
        "delivery.what_does_least_harm_tries_however_often_it_failed",
        "delivery.a_file_that_nobody_takes_does_not_keep_its_account_closed",
        "answers.each_answer_ends_in_its_state",
        "optipub.every_answer_has_its_event",
    ],
    "broken after the whole file had left; any other 2xx, 3xx or 5xx": [
        "answers.each_answer_ends_in_its_state",
        "delivery.a_lost_answer_is_repeated_within_its_window_and_owned_up_to",
        "delivery.after_two_repeats_a_person_has_to_look",
        "delivery.nobody_is_signed_up_again_after_opt_outs_were_sent",
        "delivery.files_behind_one_that_is_sent_again_wait_for_that",
        "delivery.a_full_load_of_unknown_outcome_keeps_the_next_one_waiting",
        "policy.what_blocks_its_lane",
        "optipub.every_answer_has_its_event",
    ],
    "SIGTERM, a reload": [
        "cli.sigterm_during_an_upload_drains_and_exits_0",
        "cli.a_reload_during_an_upload_does_not_disturb_it",
        "cli.a_reload_takes_the_new_configuration_or_keeps_the_old",
    ],
    "SIGKILL, a power cut": [
        "kill9.random_kills_under_load",
        "power.power_cuts_in_the_middle_of_the_work",
        "pipeline.a_drop_found_sending_at_the_start_is_unknown",
    ],
    "disk or quota full, read-only, I/O error, too many open files, no thread left": [
        "filing.a_fault_of_the_machine_at_each_effect_of_a_batch",
        "threads.without_any_thread_sending_pauses_and_heals",
        "daemon.a_full_disk_pauses_everything_with_one_alert_and_heals_by_itself",
        "hostile.a_full_disk_takes_nothing_and_loses_nothing",
        "hostile.a_file_system_that_turns_read_only_takes_nothing",
        "incidents.the_disk_is_full",
        "pipeline.a_fault_of_the_machine_judges_nothing",
        "optipub.no_file_descriptors_left_here_is_our_own_fault",
    ],
    "the mount with `work/` is gone": [
        "filing.work_that_is_away_is_waited_for",
        "filing.a_check_waits_for_work_that_is_away",
        "daemon.a_work_folder_that_is_away_at_the_start_is_taken_up_once_it_is_back",
        "cli.a_work_folder_that_is_away_is_not_made_anew",
    ],
    "`done/` or `failed/` cannot be written": [
        "pipeline.a_verdict_that_cannot_be_filed_is_filed_later",
        "filing.what_cannot_be_filed_for_long_is_told_once",
    ],
    "the clock jumps": [
        "keeping.a_clock_that_jumps_ahead_deletes_nothing_for_a_day",
        "delivery.a_clock_that_jumps_keeps_nothing_waiting",
        "delivery.a_clock_that_goes_back_during_a_wait_changes_nothing",
        "delivery.a_clock_that_jumps_ends_the_window_of_a_repeat",
        "policy.each_mode_has_its_window",
        "doctor.a_clock_behind_the_ledger_is_a_fault",
    ],
    "the ledger is lost, or is another one": [
        "crash.a_lost_ledger_sends_nothing",
        "daemon.a_ledger_that_is_another_one_is_said_so_and_nothing_is_sent",
        "orders.a_drop_that_was_checked_but_has_no_row_is_held",
        "incidents.the_ledger_is_damaged",
    ],
    "the ledger is damaged": [
        "incidents.the_ledger_is_damaged",
        "ledger_contract.no_ledger_damaged_ledger_newer_ledger",
        "doctor.a_ledger_that_is_damaged_another_one_or_without_its_files_is_told",
    ],
    "an older copy of the ledger is put in its place": [
        "daemon.an_older_copy_of_the_ledger_sends_nothing_that_it_knew",
        "daemon.what_an_older_copy_has_as_under_way_is_held_as_no_record",
        "daemon.what_an_older_copy_has_as_held_may_have_been_released_since",
        "daemon.a_crash_while_an_older_copy_is_taken_up_sends_nothing",
    ],
    "the state folder is on a network file system": [
        "daemon.a_state_folder_on_a_network_file_system_is_refused",
        "doctor.a_state_folder_on_another_kind_of_file_system_is_refused",
    ],
    "a second daemon on the same state folder": ["cli.a_second_instance_exits_7_and_disturbs_nobody"],
    "somebody takes a file out of `work/`": [
        "pipeline.a_file_that_somebody_took_out_of_work_is_held_at_once",
        "orders.a_file_that_somebody_took_from_work_blocks_nobody",
    ],
    "an unexpected error in one drop": [
        "pipeline.unexpected_errors_put_a_drop_off_five_times_and_then_hold_it",
        "telemetry.a_traceback_comes_with_an_unexpected_error",
    ],
}

# README's table in short: which faults of docs/promise.md each of its rows is about, by how those begin.
IN_SHORT = {
    "an upload that goes on, pauses or breaks off; what is no plain file": (
        "the upload is still going on",
        "the client dies in mid-line",
        "the client dies at the end",
        "a temporary name",
        "its marker",
        "the daemon may not read it",
        "events are lost",
        "it still changes",
    ),
    "bad rows, a header that cannot be, odd figures": (
        "something that can be read in one way only",
        "bad rows",
        "more bad rows",
        "empty; far",
    ),
    "the same again, a newer full load": ("the same content", "a newer full load"),
    "OptiPub says no, asks to wait, cannot be reached, or the key is dead": (
        "OptiPub says no",
        "429",
        "408",
        "401",
        "no connection",
    ),
    "the answer is lost": ("broken after the whole file",),
    "SIGKILL, a power cut; a full disk, a clock that jumps": (
        "SIGTERM",
        "SIGKILL",
        "disk or quota",
        "the mount with",
        "`done/` or `failed/`",
        "the clock jumps",
    ),
    "a file that ends the program, an error of ours, a file that is gone": (
        "a file that kills",
        "an unexpected error",
        "somebody takes a file",
    ),
    "the ledger is lost, damaged or an older one": (
        "the ledger is lost",
        "the ledger is damaged",
        "an older copy of the ledger",
        "the state folder is on a network",
        "a second daemon",
    ),
}


def rows(text: str) -> list[str]:
    """The first cell of each row of the tables in `text`, without their heads."""
    heads = {"what happens", "---"}
    return [cell for cell in re.findall(r"^\| (.*?) \|", text, re.MULTILINE) if cell not in heads]


@cache
def named_in(name: str) -> frozenset[str]:
    """The tests that stand in a file of this folder, called without `test_`."""
    tree = ast.parse((TESTS / f"test_{name}.py").read_text(encoding="utf-8"))
    found = (node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return frozenset(each.removeprefix("test_") for each in found if each.startswith("test_"))


@pytest.mark.parametrize("told", [*SENTENCES, *FAULTS])
def test_what_is_promised_names_the_tests_that_show_it(told: str) -> None:
    """At least one, and each of them exists."""
    shown_by = (SENTENCES | FAULTS)[told]
    assert shown_by
    for each in shown_by:
        file, _, test = each.partition(".")
        assert test in named_in(file), each


def test_each_fault_of_the_table_is_shown_and_each_that_is_shown_is_in_the_table() -> None:
    """A row without a test, or a test table that speaks of a row that is gone, would be a promise of nobody."""
    assert rows((ROOT / "docs" / "promise.md").read_text(encoding="utf-8")) == list(FAULTS)


def test_readme_tells_the_promise_in_these_sentences_and_all_faults_in_short() -> None:
    """No sentence is added to it without its test; its short rows are about all the faults of the whole table."""
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("## The promise\n")[2].partition("\n## ")[0]
    told = " ".join(part.partition("\n| ")[0].replace("**", "").split())
    for beginning in SENTENCES:
        assert beginning in told
    assert len(re.findall(r"\.(?= |$)", told.replace('created."', 'created"'))) == len(SENTENCES)
    assert rows(part) == list(IN_SHORT)
    for fault in FAULTS:
        (_,) = [row for row, about in IN_SHORT.items() if fault.startswith(about)]
    for beginning in (each for about in IN_SHORT.values() for each in about):
        (_,) = [fault for fault in FAULTS if fault.startswith(beginning)]
