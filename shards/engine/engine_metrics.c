/* The engine's metrics: names are documented in docs/operations.md. */
#include "shards/engine/engine_internal.h"

METRIC_DEFINE_COUNTER(engine_proposals, "thole_engine_proposals_total", "Proposals appended");
METRIC_DEFINE_COUNTER(engine_queries, "thole_engine_queries_total", "Queries received");
METRIC_DEFINE_COUNTER(engine_refused, "thole_engine_requests_refused_total",
                      "Requests that were answered with an error");
METRIC_DEFINE_COUNTER(engine_dropped_frames, "thole_engine_frames_dropped_total",
                      "Frames dropped because a queue was full");
METRIC_DEFINE_COUNTER(engine_bad_frames, "thole_engine_frames_malformed_total",
                      "Frames from peers that could not be read");
METRIC_DEFINE_GAUGE(engine_sleeping, "thole_engine_replicas_sleeping",
                    "Replicas of idle groups, without timers and messages");
METRIC_DEFINE_HISTOGRAM_NS(engine_sync_ns, "thole_engine_log_write_seconds",
                           "Time of one synced write of the log");
METRIC_DEFINE_HISTOGRAM(engine_batch_updates, "thole_engine_log_write_replicas",
                        "Replicas in one synced write");
METRIC_DEFINE_HISTOGRAM(engine_batch_entries, "thole_engine_log_write_entries",
                        "Entries in one synced write");
METRIC_DEFINE_HISTOGRAM(engine_apply_entries, "thole_engine_apply_batch_entries",
                        "Entries of one range handed to an applier");
METRIC_DEFINE_HISTOGRAM_NS(engine_apply_ns, "thole_engine_apply_seconds",
                           "Time to apply one range");
METRIC_DEFINE_HISTOGRAM_NS(engine_apply_lag_ns, "thole_engine_apply_lag_seconds",
                           "Time from handing a range over until it is applied");
METRIC_DEFINE_HISTOGRAM_NS(engine_turn_ns, "thole_engine_loop_turn_seconds",
                           "Time of one turn of a loop");
METRIC_DEFINE_HISTOGRAM_NS(engine_commit_ns, "thole_engine_log_wait_seconds",
                           "Time from handing a batch to the writer until it is durable");
METRIC_DEFINE_HISTOGRAM_NS(
    engine_decided_ns, "thole_engine_commit_seconds",
    "Time from appending the oldest proposal of a range until it is committed");
METRIC_DEFINE_HISTOGRAM_NS(engine_answer_ns, "thole_engine_proposal_seconds",
                           "Time from appending a proposal until it is applied and answered");
METRIC_DEFINE_COUNTER(engine_leader_changes, "thole_engine_leader_changes_total",
                      "Elections that replicas of this host have won");
METRIC_DEFINE_GAUGE(engine_pending, "thole_engine_proposals_pending",
                    "Proposals appended here that are not decided yet");
METRIC_DEFINE_HISTOGRAM(engine_frame_entries, "thole_engine_frame_entries",
                        "Entries in one frame to a follower's host");
METRIC_DEFINE_COUNTER(engine_snapshots_saved, "thole_engine_snapshots_saved_total",
                      "Snapshots written to disk");
METRIC_DEFINE_COUNTER(engine_snapshots_sent, "thole_engine_snapshots_sent_total",
                      "Snapshots installed by peers");
METRIC_DEFINE_COUNTER(engine_snapshots_installed, "thole_engine_snapshots_installed_total",
                      "Snapshots installed here");
METRIC_DEFINE_COUNTER(engine_snapshot_bytes, "thole_engine_snapshot_sent_bytes_total",
                      "Bytes of snapshots sent to peers, again sent ones too");
METRIC_DEFINE_HISTOGRAM_NS(engine_save_ns, "thole_engine_snapshot_save_seconds",
                           "Time to write one snapshot file");
METRIC_DEFINE_HISTOGRAM_NS(engine_transfer_ns, "thole_engine_snapshot_transfer_seconds",
                           "Time from the first chunk sent until the last one is acknowledged");
METRIC_DEFINE_HISTOGRAM_NS(engine_restore_ns, "thole_engine_snapshot_restore_seconds",
                           "Time to restore a machine from a received snapshot");
METRIC_DEFINE_COUNTER(engine_ticks, "thole_engine_ticks_total",
                      "TICKs that leaders here appended because a timer of a machine was due.");
METRIC_DEFINE_HISTOGRAM(engine_loop_depth, "thole_engine_loop_messages",
                        "Messages handled in one turn of a loop");
