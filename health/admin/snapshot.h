/*
 * snapshot.h - everything the admin listener shows, copied out of the scoreboard at one moment.
 *
 * The builders of text (metrics.h, nodes_json.h) work on a snapshot and on nothing else, so
 * they are pure.
 */
#ifndef DROVER_HEALTH_SNAPSHOT_H
#define DROVER_HEALTH_SNAPSHOT_H

#include <stdint.h>

#include "base/attrs.h"
#include "base/histogram.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/facts/stats.h"
#include "shm/facts/usage.h"
#include "shm/share/gauges.h"

struct scoreboard;

struct snapshot_node {
    unsigned node_id;
    struct node_info info;
    struct node_status status;
    struct gauge gauge;
    struct histogram histogram[STATS_HISTOGRAMS];
    uint64_t counter[STATS_COUNTERS];
    double average[STATS_AVERAGES];
};

struct snapshot_proc {
    char name[24]; /* "master", "health", "worker0" */
    bool worker;
    struct proc_view view;
    uint32_t requests_open;   /* rows of its request table; workers only */
    uint32_t requests_queued; /* of these, waiting for a node */
};

/* Counts that only the health process keeps. */
struct snapshot_counts {
    uint64_t gauge_audit_violations;
    uint64_t ejections;
    uint64_t kept; /* ejections that would have left too few nodes */
    uint64_t registry_joins;
    uint64_t registry_crowded; /* strangers' streams and connections ended to make room */
    uint64_t registry_refused; /* wrong proof, bad message, over a limit */
    uint32_t registry_attached;
};

struct snapshot {
    uint64_t now_mono_us;
    uint64_t now_wall_ms;
    uint64_t created_wall_ms;
    uint32_t config_generation, workers_wanted;
    struct snapshot_node *nodes; /* owned */
    unsigned nodes_count;
    struct snapshot_proc *procs; /* owned; those that are not FREE */
    unsigned procs_count;
    struct usage_view *usage; /* owned; one for each API key's name */
    unsigned usage_count;
    struct snapshot_counts counts;
};

/* Copies the scoreboard.  Nodes that are GONE are included, empty slots are not.  DRV_ENOMEM.
 */
MUST_CHECK int snapshot_take(struct snapshot *out, const struct scoreboard *board,
                             const struct snapshot_counts *counts, uint64_t now_mono_us,
                             uint64_t now_wall_ms);
void snapshot_finish(struct snapshot *snapshot);

/* NULL when the system can take requests: a worker runs and a node is UP or on PROBATION.
 * Otherwise one line that says what is missing.  A look at the scoreboard, without a snapshot.
 */
const char *snapshot_not_ready(const struct scoreboard *board);

#endif
