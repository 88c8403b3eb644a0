/* test_scoreboard.c - creating and attaching, and files that are no scoreboard. */
#include "shm/scoreboard.h"

#include <fcntl.h>
#include <math.h>
#include <sys/stat.h>

#include "board.h"
#include "shm/facts/decisions.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/facts/speeds.h"
#include "shm/facts/stats.h"
#include "shm/facts/usage.h"
#include "shm/queue/model_queues.h"
#include "shm/queue/offers.h"
#include "shm/queue/plans.h"
#include "shm/queue/queue_heads.h"
#include "shm/reap.h"
#include "shm/segment.h"
#include "shm/seqlock.h"
#include "shm/share/budget.h"
#include "shm/share/gauges.h"
#include "shm/share/loads.h"
#include "shm/share/prefix.h"
#include "shm/share/taught.h"

static int attach_code(const char *path, struct error *err)
{
    struct scoreboard *board;
    int rc = scoreboard_attach(&board, path, err);

    if (rc != 0)
        cr_assert_null(board);
    scoreboard_detach(board);
    return rc;
}

static void overwrite(const char *path, off_t at, const void *bytes, size_t n)
{
    int fd = open(path, O_WRONLY);

    cr_assert_neq(fd, -1);
    cr_assert_eq(pwrite(fd, bytes, n, at), (ssize_t)n);
    (void)close(fd);
}

/* A small generator, so that a failure can be repeated. */
static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

Test(scoreboard, attaching_shows_what_the_creator_wrote)
{
    struct temporary t;
    struct scoreboard *writer = board_make(&t, 16, 4, 32), *reader;
    uint32_t generation, workers;
    struct stat st;

    scoreboard_set_config(writer, 3, 4);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_eq(scoreboard_max_nodes(reader), 16);
    cr_assert_eq(scoreboard_max_workers(reader), 4);
    cr_assert_eq(scoreboard_requests_per_worker(reader), 32);
    cr_assert_eq(scoreboard_created_wall_ms(reader), scoreboard_created_wall_ms(writer));
    cr_assert_gt(scoreboard_created_wall_ms(reader), UINT64_C(1500000000000));
    scoreboard_config(reader, &generation, &workers);
    cr_assert_eq(generation, 3);
    cr_assert_eq(workers, 4);
    cr_assert_eq(stat(t.path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    scoreboard_detach(reader);
    board_drop(&t, writer);
}

Test(scoreboard, a_new_one_replaces_the_old_file_and_leaves_its_mappings_alone)
{
    const struct scoreboard_params params = {8, 2, 4, 0, 0};
    struct temporary t;
    struct scoreboard *old = board_make(&t, 16, 4, 32), *new, *reader;
    uint32_t generation, workers;

    scoreboard_set_config(old, 7, 4);
    cr_assert_eq(scoreboard_create(&new, t.path, &params, NULL), 0);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    cr_assert_eq(scoreboard_max_nodes(reader), 8);
    scoreboard_config(old, &generation, &workers);
    cr_assert_eq(generation, 7);
    scoreboard_detach(reader);
    scoreboard_detach(old);
    board_drop(&t, new);
}

static uint64_t taken_bytes(const char *path)
{
    struct stat st;

    cr_assert_eq(stat(path, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static uint64_t file_bytes(const char *path)
{
    struct stat st;

    cr_assert_eq(stat(path, &st), 0);
    return (uint64_t)st.st_size;
}

Test(scoreboard, the_file_has_room_for_what_is_touched_and_takes_no_more)
{
    struct scoreboard_params params = {256, 128, 10240, 0, 2};
    const uint64_t slack = 1 << 16;
    struct scoreboard *board;
    struct temporary t;
    uint64_t two, four;

    temporary_make(&t);
    cr_assert_eq(scoreboard_create(&board, t.path, &params, NULL), 0);
    two = scoreboard_bytes(&params);
    params.workers = 4;
    four = scoreboard_bytes(&params);
    cr_assert_lt(two, 16 << 20);
    cr_assert_gt(four, two);
    cr_assert_geq(taken_bytes(t.path), two);
    cr_assert_leq(taken_bytes(t.path), two + slack);
    cr_assert_eq(file_bytes(t.path),
                 board->geometry.columns_offset + 2 * board->geometry.column_bytes);

    cr_assert_eq(scoreboard_room_for_workers(board, 4, NULL), 0);
    cr_assert_eq(scoreboard_room_for_workers(board, 3, NULL), 0, "it has them");
    cr_assert_geq(taken_bytes(t.path), four);
    cr_assert_leq(taken_bytes(t.path), four + slack);

    cr_assert_eq(scoreboard_room_for_models(board, 255, 1000, NULL), 0);
    cr_assert_geq(taken_bytes(t.path), four + 1000 * sizeof(struct node_model));
    cr_assert_leq(taken_bytes(t.path), four + 1000 * sizeof(struct node_model) + slack);
    cr_assert_eq(scoreboard_room_for_workers(board, 129, NULL), DRV_EINVAL);
    cr_assert_eq(scoreboard_room_for_models(board, 256, 1, NULL), DRV_EINVAL);
    cr_assert_eq(scoreboard_room_for_models(board, 0, NODE_MAX_MODELS + 1, NULL), DRV_EINVAL);
    board_drop(&t, board);
}

Test(scoreboard, a_reader_follows_the_columns_that_the_file_gets)
{
    const struct scoreboard_params params = {4, 8, 16, 64, 1};
    struct decision d = {.id = "r1"}, got;
    struct scoreboard *board, *reader;
    struct temporary t;

    temporary_make(&t);
    cr_assert_eq(scoreboard_create(&board, t.path, &params, NULL), 0);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    decisions_add(board, 5, &d); /* it has no room: nothing happens */
    cr_assert_eq(decisions_count(board, 5), 0);
    cr_assert_eq(requests_open(board, 5, "r1", "m", 1, 1), -1);
    /* A count that is damaged is not followed beyond the file's end. */
    segment_table(board, 7)->decisions = 3;
    cr_assert_not(decisions_read(reader, 7, 2, &got));

    cr_assert_eq(scoreboard_room_for_workers(board, 6, NULL), 0);
    decisions_add(board, 5, &d);
    cr_assert(decisions_read(reader, 5, 0, &got));
    cr_assert_str_eq(got.id, "r1");
    cr_assert_eq(requests_open(board, 5, "r1", "m", 1, 1), 0);
    cr_assert_not(decisions_read(reader, 7, 2, &got));
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(scoreboard, counts_out_of_range_and_impossible_paths_are_refused)
{
    static const struct scoreboard_params wrong[] = {
        {0, 1, 1, 0, 0},   {1025, 1, 1, 0, 0}, {1, 0, 1, 0, 0},
        {1, 129, 1, 0, 0}, {1, 1, 0, 0, 0},    {1, 1, 65537, 0, 0},
        {~0u, 1, 1, 0, 0}, {1, 1, 1, ~0u, 0},  {1, 2, 1, 0, 3}};
    struct scoreboard *board;
    struct error err;

    for (size_t i = 0; i < ARRAY_LEN(wrong); i++) {
        cr_assert_eq(scoreboard_create(&board, "/tmp/never", &wrong[i], &err), DRV_EINVAL);
        cr_assert_null(board);
    }
    cr_assert_eq(scoreboard_create(&board, "/nonexistent/dir/x",
                                   &(struct scoreboard_params){1, 1, 1, 0, 0}, &err),
                 DRV_ESYS);
    cr_assert_not_null(strstr(err.text, "No such file"));
    scoreboard_detach(NULL);
}

Test(scoreboard, a_missing_file_is_distinguished_from_a_bad_one)
{
    struct error err;

    cr_assert_eq(attach_code("/nonexistent/scoreboard", &err), DRV_ENOENT);
    cr_assert_not_null(strstr(err.text, "/nonexistent/scoreboard"));
}

Test(scoreboard, a_directory_a_fifo_and_a_device_are_not_scoreboards)
{
    struct temporary t;
    struct error err;

    temporary_make(&t);
    cr_assert_eq(attach_code(t.dir, &err), DRV_ECORRUPT);
    cr_assert_not_null(strstr(err.text, "not a regular file"));
    cr_assert_eq(mkfifo(t.path, 0600), 0);
    cr_assert_eq(attach_code(t.path, &err), DRV_ECORRUPT); /* and does not wait for a writer */
    cr_assert_eq(attach_code("/dev/zero", &err), DRV_ECORRUPT);
    temporary_remove(&t);
}

Test(scoreboard, a_file_cut_at_any_length_is_refused)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    struct stat st;
    struct error err;

    cr_assert_eq(stat(t.path, &st), 0);
    for (off_t n = st.st_size - 1; n >= 0; n -= n > 8192 ? 509 : 1) {
        cr_assert_eq(truncate(t.path, n), 0);
        cr_assert_eq(attach_code(t.path, &err), DRV_ECORRUPT, "%jd", (intmax_t)n);
    }
    board_drop(&t, board);
}

Test(scoreboard, a_file_that_is_too_long_is_refused)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);

    overwrite(t.path, 1 << 24, "x", 1);
    cr_assert_eq(attach_code(t.path, NULL), DRV_ECORRUPT);
    board_drop(&t, board);
}

Test(scoreboard, another_layout_version_is_named_in_the_error)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 1, 1, 1);
    const uint32_t old = 1, future = 4711;
    char old_text[64], future_text[64];
    struct error err;

    (void)snprintf(old_text, sizeof(old_text), "version 1, this program reads %u",
                   SB_LAYOUT_VERSION);
    (void)snprintf(future_text, sizeof(future_text), "version 4711, this program reads %u",
                   SB_LAYOUT_VERSION);
    overwrite(t.path, offsetof(struct sb_header, layout_version), &old, sizeof(old));
    cr_assert_eq(attach_code(t.path, &err), DRV_EVERSION);
    cr_assert_not_null(strstr(err.text, old_text), "%s", err.text);
    overwrite(t.path, offsetof(struct sb_header, layout_version), &future, sizeof(future));
    cr_assert_eq(attach_code(t.path, &err), DRV_EVERSION);
    cr_assert_not_null(strstr(err.text, future_text), "%s", err.text);
    board_drop(&t, board);
}

Test(scoreboard, a_header_with_any_one_byte_changed_is_refused)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 3, 2, 5);
    struct sb_header header;
    int fd = open(t.path, O_RDONLY);

    cr_assert_eq(pread(fd, &header, sizeof(header), 0), (ssize_t)sizeof(header));
    (void)close(fd);
    for (size_t at = 0; at < sizeof(header); at++) {
        const uint8_t good = ((uint8_t *)&header)[at], bad = (uint8_t)(good ^ 0x41);

        if (at >= offsetof(struct sb_header, created_wall_ms) &&
            at < offsetof(struct sb_header, geometry))
            continue; /* the date may be anything */
        overwrite(t.path, (off_t)at, &bad, 1);
        cr_assert_neq(attach_code(t.path, NULL), 0, "byte %zu", at);
        overwrite(t.path, (off_t)at, &good, 1);
    }
    cr_assert_eq(attach_code(t.path, NULL), 0);
    board_drop(&t, board);
}

Test(scoreboard, foreign_and_random_files_are_refused)
{
    struct temporary t;
    uint64_t seed = 42;

    temporary_make(&t);
    for (int i = 0; i < 200; i++) {
        size_t n = next_random(&seed) % 20000;
        uint8_t *bytes = malloc(n + 1);
        int fd = open(t.path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

        for (size_t at = 0; at < n; at++)
            bytes[at] = i == 0 ? 'A' : (uint8_t)next_random(&seed);
        cr_assert_eq(write(fd, bytes, n), (ssize_t)n);
        (void)close(fd);
        cr_assert_eq(attach_code(t.path, NULL), DRV_ECORRUPT);
        free(bytes);
    }
    temporary_remove(&t);
}

/* As read_everything(), for what the workers share to choose a node. */
static void read_what_routing_shares(const struct scoreboard *board)
{
    const uint32_t nodes = scoreboard_max_nodes(board);
    const struct sb_prefix_set *set = segment_prefix_set(board, 0);
    uint32_t matched[4 + 1] = {[4] = 4711};
    uint64_t hashes[SB_PREFIX_WAYS], models[5] = {0};
    struct decision_cursor cursor = {0};
    struct queue_head head;
    struct decision d;

    cr_assert_eq(nodes, 4);
    for (unsigned w = 0; w < SB_PREFIX_WAYS; w++)
        hashes[w] = set->way[w].hash; /* so that something is found */
    cr_assert_leq(prefix_match(board, hashes, SB_PREFIX_WAYS, matched), SB_PREFIX_WAYS);
    cr_assert_eq(matched[4], 4711);
    for (unsigned w = 0; w < SB_SESSION_WAYS; w++)
        cr_assert_lt(prefix_session_get(board, segment_session_set(board, 0)->word[w] >> 32),
                     (int)nodes);
    cr_assert_eq(queue_heads_any(board, 0), queue_heads_any(board, 0));
    (void)queue_heads_total(board);
    for (uint32_t row = 0; row < MODEL_QUEUES_ROWS + 3; row++) {
        (void)model_queues_waiting(board, row);
        (void)model_queues_refused_mono_us(board, row);
    }
    for (unsigned m = 0; m < 5; m++) {
        cr_assert_leq(budget_milli(board, models[m]), BUDGET_MAX_MILLI);
    }
    for (unsigned i = 0; i < BUDGET_MODELS; i++)
        cr_assert_leq(budget_milli(board, segment_budgets(board)[i] | i), BUDGET_MAX_MILLI);
    for (unsigned node = 0; node < nodes + 3; node++) {
        (void)loads_blocked(board, node, 1, 1, 1);
        (void)plans_sum(board, node, 1, 1);
        if (queue_heads_least(board, node, 1, 0, 1, &head))
            cr_assert_lt(head.worker, scoreboard_max_workers(board));
    }
    while (decisions_next(board, "x", &cursor, &d))
        cr_assert_leq(d.candidates, DECISIONS_CANDIDATES);
    for (unsigned w = 0; w < scoreboard_max_workers(board) + 3; w++) {
        uint64_t count = decisions_count(board, w);

        for (uint64_t back = 0; back <= DECISIONS_PER_WORKER; back++) {
            if (!decisions_read(board, w, count - back, &d))
                continue;
            cr_assert_leq(d.candidates, DECISIONS_CANDIDATES);
            cr_assert_lt(strnlen(d.id, sizeof(d.id)), sizeof(d.id));
            cr_assert(d.node < nodes || d.node == DECISIONS_NO_NODE);
        }
    }
}

/* Makes the first few entries of each ring such that they are believed, whatever else is in
 * them. */
static void plant_decisions(struct scoreboard *board, uint64_t *seed)
{
    for (unsigned w = 0; w < scoreboard_max_workers(board); w++) {
        struct sb_ring *ring = segment_ring(board, w);

        segment_table(board, w)->decisions = next_random(seed) % 8;
        for (unsigned i = 0; i < 8; i++) {
            struct decision d;

            memset(&d, (int)(next_random(seed) & 0xff), sizeof(d));
            d.worker = w;
            d.number = i;
            d.id[0] = 'x';
            if (i % 2 == 0)
                d.id[1] = '\0';
            ring->entry[i].seq = 2;
            seqlock_store(ring->entry[i].content, &d, sizeof(d));
        }
    }
}

/* Calls every reader with every number, in range and out of it. */
static void read_everything(const struct scoreboard *board)
{
    static struct node_info info;
    uint32_t generation, workers;

    scoreboard_config(board, &generation, &workers);
    (void)nodes_epoch(board);
    cr_assert_geq(nodes_find(board, "box1"), -1);
    cr_assert_leq(procs_find_free(board), (int)scoreboard_max_workers(board));
    for (unsigned process = 0; process < procs_rows(board) + 3; process++) {
        struct proc_view view;

        if (procs_read(board, process, &view)) {
            cr_assert_lt(process, procs_rows(board));
            cr_assert_geq(view.pid, 0);
            cr_assert_str_neq(proc_state_name(view.state), "UNKNOWN");
        }
    }
    for (unsigned node = 0; node < scoreboard_max_nodes(board) + 3; node++) {
        struct node_status status;
        struct histogram h;

        cr_assert_str_neq(node_state_name(nodes_state(board, node)), "UNKNOWN");
        if (nodes_status(board, node, &status)) {
            cr_assert_str_neq(node_reason_name(status.reason), "unknown");
            cr_assert_leq(status.success_fraction, 1);
        }
        if (nodes_read(board, node, &info)) {
            cr_assert_lt(strnlen(info.name, sizeof(info.name)), sizeof(info.name));
            cr_assert_lt(strnlen(info.address, sizeof(info.address)), sizeof(info.address));
            cr_assert_leq(info.models_count, NODE_MAX_MODELS);
            for (unsigned m = 0; m < info.models_count; m++) {
                cr_assert_lt(strnlen(info.models[m].id, NODE_MODEL_BYTES), NODE_MODEL_BYTES);
                cr_assert_leq(info.models[m].alias_of, info.models_count);
            }
        }
        for (unsigned which = 0; which <= STATS_HISTOGRAMS; which++) {
            stats_read_histogram(board, node, (enum stats_histogram)which, &h);
            (void)histogram_quantile_us(&h, 0.99);
        }
        for (unsigned c = 0; c <= STATS_COUNTERS; c++)
            (void)stats_read_counter(board, node, (enum stats_counter)c);
        for (unsigned a = 0; a <= STATS_AVERAGES; a++)
            cr_assert(isfinite(stats_read_average(board, node, (enum stats_average)a)));
        for (uint32_t row = 0; row <= SPEEDS_ROWS + 1; row++) {
            struct speed speed = speeds_read(board, row, node);

            cr_assert(isfinite(speed.tokens) && isfinite(speed.seconds));
        }
        (void)gauges_sum(board, node, 1);
    }
    read_what_routing_shares(board);
    for (unsigned w = 0; w < scoreboard_max_workers(board) + 3; w++) {
        uint32_t high;

        cr_assert_leq(requests_count(board, w, &high), scoreboard_requests_per_worker(board));
        cr_assert_leq(high, scoreboard_requests_per_worker(board));
        for (unsigned row = 0; row < scoreboard_requests_per_worker(board) + 3; row++) {
            struct request_view view;

            if (!requests_read(board, w, row, &view))
                continue;
            cr_assert_lt(strnlen(view.id, sizeof(view.id)), sizeof(view.id));
            cr_assert_lt(strnlen(view.model, sizeof(view.model)), sizeof(view.model));
            cr_assert_str_neq(request_phase_name(view.phase), "unknown");
            cr_assert(view.node == REQUEST_NO_NODE || view.node < scoreboard_max_nodes(board));
        }
    }
}

Test(scoreboard, every_reader_is_safe_when_the_body_is_random_bytes)
{
    struct temporary t;
    struct scoreboard *board = board_make(&t, 4, 3, 8), *reader;
    uint64_t seed = 7;
    struct stat st;
    uint8_t *bytes;

    cr_assert_eq(stat(t.path, &st), 0);
    bytes = malloc((size_t)st.st_size);
    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    for (int round = 0; round < 40; round++) {
        for (off_t at = 0; at < st.st_size; at++)
            bytes[at] = (uint8_t)next_random(&seed);
        if (round == 0)
            memset(bytes, 0xff, (size_t)st.st_size);
        /* small states and even counters now and then, or little would be found valid */
        for (off_t at = 0; round % 2 == 1 && at < st.st_size; at += 4)
            if (next_random(&seed) % 2 == 0)
                bytes[at] &= 6, bytes[at + 1] &= 7, bytes[at + 2] = bytes[at + 3] = 0;
        overwrite(t.path, SB_PAGE, bytes, (size_t)st.st_size - SB_PAGE);
        if (round % 4 >= 2)
            plant_decisions(board, &seed);
        read_everything(reader);
        read_everything(board);
    }
    free(bytes);
    scoreboard_detach(reader);
    board_drop(&t, board);
}

Test(scoreboard, writers_do_nothing_on_a_read_only_handle_or_out_of_range)
{
    static const struct node_info info = {.name = "box1", .slots = 4};
    struct temporary t;
    struct scoreboard *board = board_make(&t, 2, 2, 2), *reader;
    struct node_set nodes = {0};
    const unsigned far = 4711;

    cr_assert_eq(scoreboard_attach(&reader, t.path, NULL), 0);
    for (int i = 0; i < 2; i++) {
        struct scoreboard *sb = i == 0 ? reader : board;
        unsigned n = i == 0 ? 0 : far;

        if (sb == reader) {
            scoreboard_set_config(sb, 9, 9);
            cr_assert_eq(nodes_claim(sb, 1), -1);
            nodes_repair(sb);
        }
        nodes_publish(sb, n, &info);
        nodes_set_state(sb, n, NODE_UP, NODE_REASON_NONE, 1);
        nodes_set_checked(sb, n, 1, 1);
        nodes_set_drain_wanted(sb, n, true);
        nodes_set_slots_now(sb, n, 1);
        nodes_set_load(sb, n, 1, 1, 0.5f, 1);
        nodes_set_window(sb, n, &(struct node_status){0});
        nodes_release(sb, n);
        procs_assign(sb, n, 1, true);
        procs_set_pid(sb, n, 1);
        procs_set_state(sb, n, PROC_RUNNING);
        procs_heartbeat(sb, n, 1);
        procs_count(sb, n, PROC_REQUESTS_TOTAL, 1);
        reap_process(sb, n);
        cr_assert_not(gauges_claim(sb, n, n, 0, 1, 8));
        cr_assert_not(gauges_claim(sb, 0, n, 0, 1, 8));
        gauges_prefill_done(sb, n, 0, 0, 1);
        gauges_release(sb, 0, n, 0, 1);
        gauges_clear_worker(sb, n);
        prefix_note(sb, n, 0, &(uint64_t){7}, 1, 1);
        prefix_session_set(sb, 7, n, 0, 1);
        queue_heads_set(sb, n, 0, 1, 1);
        queue_heads_set(sb, 0, n, 1, 1);
        queue_heads_set_total(sb, n, 1);
        queue_heads_clear_worker(sb, n);
        cr_assert_lt(model_queues_row(sb, n), MODEL_QUEUES_ROWS);
        model_queues_enter(sb, n, 0);
        model_queues_enter(sb, 0, MODEL_QUEUES_ROWS + n);
        model_queues_leave(sb, n, 0);
        model_queues_refuse(sb, MODEL_QUEUES_ROWS + n, 1);
        model_queues_clear_worker(sb, n);
        offers_set(sb, n, 0);
        offers_set(sb, 0, n);
        offers_take(sb, n, &nodes);
        offers_clear_worker(sb, n);
        plans_add(sb, n, 0, 0, 1);
        plans_add(sb, 0, n, 0, 1);
        plans_drop(sb, n, 0, 0, 1);
        plans_drop(sb, 0, n, 0, 1);
        plans_clear_worker(sb, n);
        decisions_add(sb, n, &(struct decision){0});
        cr_assert_not(loads_claim(sb, 0, n, 0, 7, 1, 1));
        loads_done(sb, 0, n, 0, 7);
        loads_clear_worker(sb, n);
        loads_zero(sb, n);
        taught_note(sb, n, 0, &(struct lesson){.model_hash = 7, .ability = ABILITY_VISION}, 1,
                    1);
        cr_assert_eq(taught_find(sb, n, 0, &(struct lesson){.model_hash = 7}, 1,
                                 &(uint64_t){UINT64_MAX}),
                     0);
        taught_zero(sb, n);
        if (sb == reader)
            budget_failure(sb, 7, 1);
        stats_note(sb, n, 0, STATS_E2E, 5);
        stats_count(sb, n, 0, STATS_OK, 1);
        stats_average(sb, n, 0, STATS_AVG_HOLD_S, 1, 0.1);
        stats_zero(sb, n);
        cr_assert_eq(requests_open(sb, n, "a", "b", 1, 1), -1);
        requests_phase(sb, n, 0, REQUEST_SENT, 1);
        requests_node(sb, n, 0, 0, 0);
        requests_tokens(sb, n, 0, 0);
        requests_close(sb, n, 0);
        requests_clear_worker(sb, n);
    }
    cr_assert_eq(nodes_epoch(board), 0);
    cr_assert_eq(segment_columns(board), 0);
    cr_assert_eq(decisions_count(board, 0), 0);
    scoreboard_detach(reader);
    board_drop(&t, board);
}
