/* snapshot.c - everything the admin listener shows, copied out of the scoreboard. */
#include "health/admin/snapshot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "shm/facts/requests.h"
#include "shm/scoreboard.h"

static bool take_node(struct snapshot_node *out, const struct scoreboard *board,
                      unsigned node_id)
{
    if (!nodes_read(board, node_id, &out->info) || !nodes_status(board, node_id, &out->status))
        return false;
    out->node_id = node_id;
    out->gauge = gauges_sum(board, node_id, out->info.generation);
    for (unsigned h = 0; h < STATS_HISTOGRAMS; h++)
        stats_read_histogram(board, node_id, (enum stats_histogram)h, &out->histogram[h]);
    for (unsigned c = 0; c < STATS_COUNTERS; c++)
        out->counter[c] = stats_read_counter(board, node_id, (enum stats_counter)c);
    for (unsigned a = 0; a < STATS_AVERAGES; a++)
        out->average[a] = stats_read_average(board, node_id, (enum stats_average)a);
    return true;
}

static bool take_proc(struct snapshot_proc *out, const struct scoreboard *board,
                      unsigned node_id)
{
    uint32_t high = 0;

    if (!procs_read(board, node_id, &out->view) || out->view.state == PROC_FREE)
        return false;
    out->worker = node_id < scoreboard_max_workers(board);
    if (node_id == procs_health_index(board))
        (void)snprintf(out->name, sizeof(out->name), "health");
    else if (node_id == procs_master_index(board))
        (void)snprintf(out->name, sizeof(out->name), "master");
    else
        (void)snprintf(out->name, sizeof(out->name), "worker%u", node_id);
    if (!out->worker)
        return true;
    out->requests_open = requests_count(board, node_id, &high);
    for (uint32_t row = 0; row < high && out->requests_open != 0; row++) {
        struct request_view view;

        if (requests_read(board, node_id, row, &view) && view.phase == REQUEST_QUEUED)
            out->requests_queued++;
    }
    return true;
}

int snapshot_take(struct snapshot *out, const struct scoreboard *board,
                  const struct snapshot_counts *counts, uint64_t now_mono_us,
                  uint64_t now_wall_ms)
{
    unsigned rows = 0;

    memset(out, 0, sizeof(*out));
    out->now_mono_us = now_mono_us;
    out->now_wall_ms = now_wall_ms;
    out->created_wall_ms = scoreboard_created_wall_ms(board);
    out->counts = *counts;
    scoreboard_config(board, &out->config_generation, &out->workers_wanted);
    for (unsigned i = 0; i < scoreboard_max_nodes(board); i++)
        rows += nodes_state(board, i) != NODE_NONE;
    out->nodes = calloc(rows + 1, sizeof(*out->nodes));
    out->procs = calloc(procs_rows(board), sizeof(*out->procs));
    out->usage = calloc(USAGE_ROWS, sizeof(*out->usage));
    if (out->nodes == NULL || out->procs == NULL || out->usage == NULL) {
        snapshot_finish(out);
        return DRV_ENOMEM;
    }
    /* Only this process claims rows, so there are no more of them now than just counted. */
    for (unsigned i = 0; i < scoreboard_max_nodes(board) && out->nodes_count < rows; i++) {
        if (nodes_state(board, i) != NODE_NONE &&
            take_node(&out->nodes[out->nodes_count], board, i))
            out->nodes_count++;
    }
    for (unsigned i = 0; i < procs_rows(board); i++) {
        if (take_proc(&out->procs[out->procs_count], board, i))
            out->procs_count++;
    }
    for (unsigned i = 0; i < USAGE_ROWS; i++) {
        if (usage_read(board, i, &out->usage[out->usage_count]))
            out->usage_count++;
    }
    return 0;
}

void snapshot_finish(struct snapshot *snapshot)
{
    free(snapshot->nodes);
    free(snapshot->procs);
    free(snapshot->usage);
    snapshot->nodes = NULL;
    snapshot->procs = NULL;
    snapshot->usage = NULL;
    snapshot->nodes_count = 0;
    snapshot->procs_count = 0;
    snapshot->usage_count = 0;
}

const char *snapshot_not_ready(const struct scoreboard *board)
{
    bool worker = false, node = false;
    struct proc_view view;

    if (procs_ending(board))
        return "drover is stopping";
    for (unsigned i = 0; i < scoreboard_max_workers(board) && !worker; i++)
        worker = procs_read(board, i, &view) && view.state == PROC_RUNNING;
    for (unsigned i = 0; i < scoreboard_max_nodes(board) && !node; i++)
        node = nodes_state(board, i) == NODE_UP || nodes_state(board, i) == NODE_PROBATION;
    if (!worker)
        return "no worker is running";
    if (!node)
        return "no node is up";
    return NULL;
}
