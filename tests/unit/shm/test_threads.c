/*
 * test_threads.c - the segment mapped twice in one process, readers and writers as threads.
 *
 * ThreadSanitizer sees threads of one process only, so the algorithms are run here as threads:
 * built with -DDROVER_TSAN=ON this is the test of the memory orders, built without it of the
 * results.  A program of its own, because Criterion does not run under ThreadSanitizer.
 */
#include <math.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "shm/facts/decisions.h"
#include "shm/facts/nodes.h"
#include "shm/facts/outcomes.h"
#include "shm/facts/procs.h"
#include "shm/facts/requests.h"
#include "shm/facts/stats.h"
#include "shm/queue/model_queues.h"
#include "shm/queue/offers.h"
#include "shm/queue/queue_heads.h"
#include "shm/scoreboard.h"
#include "shm/segment.h"
#include "shm/seqlock.h"
#include "shm/share/budget.h"
#include "shm/share/gauges.h"
#include "shm/share/loads.h"
#include "shm/share/prefix.h"

#define CLAIMANTS 4u

#define CHECK(claim)                                                                    \
    do {                                                                                \
        if (!(claim)) {                                                                 \
            (void)fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #claim); \
            exit(1);                                                                    \
        }                                                                               \
    } while (0)

struct scene {
    struct scoreboard *board;  /* writable mapping */
    struct scoreboard *second; /* the same file, read-only */
    _Atomic uint32_t done;
    _Atomic uint32_t good;       /* consistent copies */
    _Atomic uint32_t wrong;      /* copies that mix two versions */
    _Atomic uint32_t next;       /* number of the next thread */
    _Atomic uint32_t inside;     /* holders of a place */
    _Atomic uint32_t most;       /* ever inside at once */
    _Atomic uint32_t wins;       /* places had */
    uint64_t plain;              /* guarded by the only place, and by nothing else */
    _Atomic uint32_t at_barrier; /* see meet() */
    _Atomic uint32_t won[2];
};

static void scene_begin(struct scene *s)
{
    const struct scoreboard_params params = {.max_nodes = 3,
                                             .max_workers = CLAIMANTS,
                                             .requests_per_worker = 8,
                                             .prefix_entries = 256};
    char path[] = "/tmp/drover-threads-XXXXXX";
    int fd = mkstemp(path);

    CHECK(fd != -1);
    (void)close(fd);
    *s = (struct scene){0};
    CHECK(scoreboard_create(&s->board, path, &params, NULL) == 0);
    CHECK(scoreboard_attach(&s->second, path, NULL) == 0);
    (void)unlink(path);
    CHECK(nodes_claim(s->board, 1) == 0);
}

static void scene_end(struct scene *s)
{
    scoreboard_detach(s->second);
    scoreboard_detach(s->board);
}

static pthread_t spawn(void *(*run)(void *), struct scene *s)
{
    pthread_t thread;

    CHECK(pthread_create(&thread, NULL, run, s) == 0);
    return thread;
}

static void join(pthread_t thread)
{
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- node rows ---- */

#define ROW_MODELS 64

/* Version v of the node: every part of it contains v. */
static void *publish_versions(void *data)
{
    struct scene *s = data;
    struct node_info info = {.models_count = ROW_MODELS};

    for (uint32_t v = 1; s->done == 0; v++) {
        (void)snprintf(info.name, sizeof(info.name), "%u", v);
        info.slots = v;
        for (unsigned m = 0; m < ROW_MODELS; m++)
            info.models[m].max_context = v;
        nodes_publish(s->board, 0, &info);
        if (v % 8 == 0)
            (void)sched_yield();
    }
    return NULL;
}

static void check_versions(struct scene *s, const struct scoreboard *board)
{
    struct node_info info;

    while (s->good < 20000) {
        char want[16];
        bool whole = true;

        if (!nodes_read(board, 0, &info)) {
            (void)sched_yield();
            continue;
        }
        if (info.models_count == 0)
            continue; /* claimed, not yet published */
        (void)snprintf(want, sizeof(want), "%u", info.slots);
        whole = strcmp(want, info.name) == 0;
        for (unsigned m = 0; m < ROW_MODELS; m++)
            whole = whole && info.models[m].max_context == info.slots;
        if (whole)
            s->good++;
        else
            s->wrong++;
    }
    s->done = 1;
}

static void *check_first(void *data)
{
    struct scene *s = data;

    check_versions(s, s->board);
    return NULL;
}

static void *check_second(void *data)
{
    struct scene *s = data;

    check_versions(s, s->second);
    return NULL;
}

static void a_copy_of_a_node_is_never_a_mix_of_two_versions(void)
{
    struct scene s;
    pthread_t writer, one, two;

    scene_begin(&s);
    writer = spawn(publish_versions, &s);
    one = spawn(check_first, &s);
    two = spawn(check_second, &s);
    join(writer);
    join(one);
    join(two);
    CHECK(s.wrong == 0);
    CHECK(s.good >= 20000);
    scene_end(&s);
}

/* ---- request rows ---- */

static void *open_and_close(void *data)
{
    struct scene *s = data;
    char id[16];

    for (uint32_t v = 1; s->done == 0; v++) {
        int row;

        (void)snprintf(id, sizeof(id), "%u", v);
        row = requests_open(s->board, 0, id, id, v, v);
        requests_phase(s->board, 0, row, REQUEST_SENT, v);
        if (v % 8 == 0)
            (void)sched_yield();
        requests_close(s->board, 0, row);
    }
    return NULL;
}

static void *watch_requests(void *data)
{
    struct scene *s = data;

    while (s->good < 20000) {
        struct request_view view;
        char want[16];

        if (!requests_read(s->second, 0, 0, &view)) {
            (void)sched_yield();
            continue;
        }
        (void)snprintf(want, sizeof(want), "%u", view.prompt_tokens);
        if (strcmp(view.id, want) == 0 && strcmp(view.model, want) == 0 &&
            view.opened_mono_us == view.prompt_tokens)
            s->good++;
        else
            s->wrong++;
    }
    s->done = 1;
    return NULL;
}

static void a_copy_of_a_request_is_never_a_mix_of_two_requests(void)
{
    struct scene s;
    pthread_t writer, reader;

    scene_begin(&s);
    writer = spawn(open_and_close, &s);
    reader = spawn(watch_requests, &s);
    join(writer);
    join(reader);
    CHECK(s.wrong == 0);
    scene_end(&s);
}

/* ---- statistics ---- */

static void *add_samples(void *data)
{
    struct scene *s = data;

    for (uint64_t i = 0; i < 20000; i++) {
        stats_note(s->board, 0, 1, STATS_E2E, i * 10);
        stats_count(s->board, 0, 1, STATS_OUTPUT_TOKENS, 3);
        stats_average(s->board, 0, 1, STATS_AVG_HOLD_S, 5, 0.1);
    }
    return NULL;
}

static void no_sample_is_lost_when_many_add(void)
{
    pthread_t thread[CLAIMANTS];
    struct histogram h;
    struct scene s;

    scene_begin(&s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        thread[i] = spawn(add_samples, &s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        join(thread[i]);
    stats_read_histogram(s.second, 0, STATS_E2E, &h);
    CHECK(h.count == CLAIMANTS * 20000);
    /* 10 * (0 + 1 + ... + 19999), four times */
    CHECK(h.sum_us == UINT64_C(4) * 10 * 199990000);
    CHECK(stats_read_counter(s.second, 0, STATS_OUTPUT_TOKENS) == CLAIMANTS * 60000);
    CHECK(fabs(stats_read_average(s.second, 0, STATS_AVG_HOLD_S) - 5) < 1e-6);
    scene_end(&s);
}

/* ---- claims ---- */

/* Nothing here but the claim itself orders the threads: the counters are relaxed. */
static void *claim_the_only_place(void *data)
{
    struct scene *s = data;
    unsigned worker = s->next++;

    while (atomic_load_explicit(&s->wins, memory_order_relaxed) < 50000) {
        uint32_t now;

        if (!gauges_claim(s->board, worker, 0, 1, 1, 1)) {
            (void)sched_yield();
            continue;
        }
        now = 1 + atomic_fetch_add_explicit(&s->inside, 1, memory_order_relaxed);
        if (now > atomic_load_explicit(&s->most, memory_order_relaxed))
            atomic_store_explicit(&s->most, now, memory_order_relaxed);
        s->plain++; /* ThreadSanitizer objects unless a release happens before the next claim */
        atomic_fetch_add_explicit(&s->wins, 1, memory_order_relaxed);
        atomic_fetch_sub_explicit(&s->inside, 1, memory_order_relaxed);
        gauges_release(s->board, worker, 0, 1, 1);
    }
    return NULL;
}

static void the_only_place_is_a_lock(void)
{
    pthread_t thread[CLAIMANTS];
    struct scene s;

    scene_begin(&s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        thread[i] = spawn(claim_the_only_place, &s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        join(thread[i]);
    CHECK(s.most == 1);
    CHECK(s.plain == s.wins);
    CHECK(gauges_sum(s.second, 0, 1).inflight == 0);
    scene_end(&s);
}

/* Waits until both threads have come here `round` times. */
static void meet(struct scene *s, uint32_t round)
{
    s->at_barrier++;
    while (s->at_barrier < 2 * round)
        (void)sched_yield();
}

#define ROUNDS 1000u

static void *race_for_the_last_place(void *data)
{
    struct scene *s = data;
    unsigned worker = s->next++;

    for (uint32_t round = 0; round < ROUNDS; round++) {
        bool mine = false;

        meet(s, 3 * round + 1);
        /* A competitor stopped midway may cost a try; a place lost for good would cost all. */
        for (int i = 0; i < 10000 && !mine && s->won[0] + s->won[1] == round; i++)
            mine = gauges_claim(s->board, worker, 0, 1, 1, 1);
        s->won[worker] += mine;
        meet(s, 3 * round + 2);
        if (mine)
            gauges_release(s->board, worker, 0, 1, 1);
        meet(s, 3 * round + 3);
    }
    return NULL;
}

static void of_two_that_race_for_the_last_place_exactly_one_gets_it(void)
{
    struct scene s;
    pthread_t one, two;

    scene_begin(&s);
    one = spawn(race_for_the_last_place, &s);
    two = spawn(race_for_the_last_place, &s);
    join(one);
    join(two);
    CHECK(s.won[0] + s.won[1] == ROUNDS);
    scene_end(&s);
}

/* ---- waiting and giving back ---- */

/* As meet(), but so that both go on within nanoseconds of one another if two processors are
 * free: what is tested here shows only then. */
static void meet_closely(struct scene *s, uint32_t round)
{
    s->at_barrier++;
    for (uint32_t i = 0; s->at_barrier < 2 * round; i++)
        if (i < 1000)
            seqlock_pause();
        else
            (void)sched_yield();
}

#define CLOSE_ROUNDS 30000u

/* One thread publishes a request for node 0 and then looks for a
 * place there; the other makes room and then looks for the row's least key. */
static void *publish_or_make_room(void *data)
{
    struct scene *s = data;
    unsigned worker = s->next++;
    struct queue_head head;

    procs_set_state(s->board, worker, PROC_RUNNING);
    procs_heartbeat(s->board, worker, 1);
    for (uint32_t round = 0; round < CLOSE_ROUNDS; round++) {
        if (worker == 1)
            CHECK(gauges_claim(s->board, 1, 0, 1, 1, 1));
        meet_closely(s, 3 * round + 1);
        if (worker == 0) {
            queue_heads_set(s->board, 0, 0, 1, round + 1);
            /* A total that does not change is stored all the same, and counts as much. */
            queue_heads_set_total(s->board, 0, 1);
            if (gauges_sum(s->board, 0, 1).inflight == 0)
                s->won[0]++;
        } else {
            gauges_release(s->board, 1, 0, 1, 1);
            if (queue_heads_any(s->board, 1) &&
                queue_heads_least(s->board, 0, 1, 1, 1, &head)) {
                CHECK(head.worker == 0 && head.key == round + 1);
                s->won[1]++;
            }
        }
        meet_closely(s, 3 * round + 2);
        CHECK(s->won[0] + s->won[1] >= 1);
        meet_closely(s, 3 * round + 3);
        s->won[worker] = 0;
        if (worker == 0) {
            queue_heads_set(s->board, 0, 0, 1, 0);
            if (round % 2 == 0)
                queue_heads_set_total(s->board, 0, 0);
        }
    }
    return NULL;
}

static void a_published_request_and_a_new_place_cannot_miss_one_another(void)
{
    struct scene s;
    pthread_t one, two;

    scene_begin(&s);
    one = spawn(publish_or_make_room, &s);
    two = spawn(publish_or_make_room, &s);
    join(one);
    join(two);
    scene_end(&s);
}

#define OFFERS 20000u

/* Three threads make room (a plain word that only the bit guards) and offer it, each as many
 * times as the one worker has taken its offer: none may be lost. */
struct offer_scene {
    struct scene scene;
    _Atomic uint32_t wakes; /* in the place of an eventfd */
    uint32_t room[3];
    _Atomic uint32_t taken[3];
};

static struct offer_scene offering;

static void *offer(void *data)
{
    unsigned node = ((struct offer_scene *)data)->scene.next++;

    for (uint32_t i = 1; i <= OFFERS; i++) {
        offering.room[node] = i;
        offers_set(offering.scene.board, 0, node);
        offering.wakes++;
        while (offering.taken[node] != i)
            (void)sched_yield();
    }
    offering.scene.done++;
    return NULL;
}

static void *take_offers(void *data)
{
    (void)data;
    while (offering.scene.done != 3) {
        struct node_set nodes = {0};
        int node;

        if (atomic_exchange(&offering.wakes, 0) == 0) {
            (void)sched_yield();
            continue;
        }
        offers_take(offering.scene.board, 0, &nodes);
        while ((node = node_set_pop(&nodes)) != -1) {
            CHECK(node < 3);
            offering.taken[node] = offering.room[node];
        }
    }
    return NULL;
}

static void no_offer_is_lost_and_each_brings_what_was_done_before_it(void)
{
    pthread_t thread[4];

    scene_begin(&offering.scene);
    for (int i = 0; i < 3; i++)
        CHECK(pthread_create(&thread[i], NULL, offer, &offering) == 0);
    CHECK(pthread_create(&thread[3], NULL, take_offers, &offering) == 0);
    for (int i = 0; i < 4; i++)
        join(thread[i]);
    scene_end(&offering.scene);
}

/* ---- decisions ---- */

static void *decide(void *data)
{
    struct scene *s = data;

    for (uint32_t v = 1; s->done == 0; v++) {
        struct decision d = {.id = "x", .attempt = v, .at_mono_us = v, .candidates = 16};

        for (unsigned i = 0; i < d.candidates; i++)
            d.candidate[i].inflight = v;
        decisions_add(s->board, 0, &d);
        if (v % 8 == 0)
            (void)sched_yield();
    }
    return NULL;
}

static void *watch_decisions(void *data)
{
    struct scene *s = data;

    while (s->good < 20000) {
        uint64_t count = decisions_count(s->second, 0);
        struct decision d;
        bool whole = true;

        /* The oldest there is: the one that is just being overwritten. */
        if (count == 0 || !decisions_read(s->second, 0, count > 256 ? count - 256 : 0, &d)) {
            s->good += count > 256 ? 0 : 1;
            continue;
        }
        for (unsigned i = 0; i < 16; i++)
            whole = whole && d.candidate[i].inflight == d.attempt;
        if (whole && d.at_mono_us == d.attempt && d.candidates == 16)
            s->good++;
        else
            s->wrong++;
    }
    s->done = 1;
    return NULL;
}

static void a_copy_of_a_decision_is_never_a_mix_of_two(void)
{
    struct scene s;
    pthread_t writer, reader;

    scene_begin(&s);
    writer = spawn(decide, &s);
    reader = spawn(watch_decisions, &s);
    join(writer);
    join(reader);
    CHECK(s.wrong == 0);
    scene_end(&s);
}

/* ---- prefix index and retry budget ---- */

static void *note_and_match(void *data)
{
    struct scene *s = data;
    unsigned me = s->next++;
    uint32_t matched[3];

    for (uint64_t i = 0; i < 20000; i++) {
        /* Many more hashes than places, so that entries change hands all the time. */
        uint64_t hash = (i * 2 + me % 2) * UINT64_C(0x9e3779b97f4a7c15);

        prefix_note(s->board, 0, 1, &hash, 1, i * 1000);
        s->good += prefix_match(s->second, &hash, 1, matched);
        CHECK(matched[1] == 0);
        prefix_session_set(s->board, hash, 0, 1, i * 1000);
        CHECK(prefix_session_get(s->second, hash) <= 0);
        if (i % 100 == 0)
            budget_failure(s->board, 7, 1);
        if (i % 100 == 50)
            for (int k = 0; k < 10; k++)
                budget_success(s->board, 7, 1);
        if (loads_claim(s->board, me, 0, 1, 7, 1, US_PER_S)) {
            s->plain++; /* guarded by nothing but the claim */
            loads_done(s->board, me, 0, 1, 7);
        }
    }
    return NULL;
}

static void what_all_workers_write_stays_usable(void)
{
    pthread_t thread[CLAIMANTS];
    struct scene s;

    scene_begin(&s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        thread[i] = spawn(note_and_match, &s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        join(thread[i]);
    CHECK(s.good > CLAIMANTS * 20000 * 9 / 10); /* what was just noted is nearly always there */
    CHECK(s.plain > 0);
    CHECK(budget_milli(s.second, 7) <= BUDGET_MAX_MILLI);
    scene_end(&s);
}

/* ---- savings for hedges ---- */

static void *save_and_spend(void *data)
{
    struct scene *s = data;

    for (unsigned i = 0; i < 20000; i++) {
        budget_save(s->board, 7, 1, 50);
        if (i % 3 == 0 && budget_spend(s->board, 7, 1))
            s->good++;
    }
    return NULL;
}

/* However they race: what is spent was saved, and no more than the bucket's brim is left. */
static void no_more_is_spent_than_was_saved(void)
{
    pthread_t thread[CLAIMANTS];
    uint64_t saved_milli = UINT64_C(50) * 20000 * CLAIMANTS;
    uint64_t left = 0;
    struct scene s;

    scene_begin(&s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        thread[i] = spawn(save_and_spend, &s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        join(thread[i]);
    CHECK(s.good > 0);
    while (budget_spend(s.board, 7, 1))
        left++;
    CHECK((s.good + left) * BUDGET_HEDGE_MILLI <= saved_milli);
    CHECK(left * BUDGET_HEDGE_MILLI <= BUDGET_MAX_MILLI);
    scene_end(&s);
}

/* ---- lost connections ---- */

#define LOSSES 2000u

static void *report_losses(void *data)
{
    struct scene *s = data;

    for (unsigned i = 1; i <= LOSSES; i++) {
        if (outcomes_note_loss(s->board, 0, 1, (uint64_t)i * OUTCOMES_LOSS_US)) {
            s->wins++;
            s->won[0] += i == LOSSES;
        }
    }
    return NULL;
}

/* The last instant is later than all others, so the first thread to reach it wins. */
static void of_all_who_report_a_lost_connection_one_is_the_first(void)
{
    pthread_t thread[CLAIMANTS];
    struct scene s;

    scene_begin(&s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        thread[i] = spawn(report_losses, &s);
    for (unsigned i = 0; i < CLAIMANTS; i++)
        join(thread[i]);
    CHECK(s.won[0] == 1);
    CHECK(s.wins <= LOSSES);
    scene_end(&s);
}

/* ---- queues of models ---- */

#define MODELS 600u

/* All take rows for the same models at once, in different orders; each counts itself in every
 * row and refuses at instants of its own. */
static void *take_rows(void *data)
{
    struct scene *s = data;
    unsigned worker = s->next++;

    for (uint32_t i = 0; i < MODELS; i++) {
        uint64_t model = 1 + (worker % 2 == 0 ? i : MODELS - 1 - i);
        /* Many of them begin at the same row. */
        uint32_t row = model_queues_row(s->board, model * 3 * MODEL_QUEUES_OTHERS / 2);

        if (row >= MODEL_QUEUES_OTHERS)
            s->wrong++;
        model_queues_enter(s->board, worker, row);
        model_queues_refuse(s->board, row, 1000 * model + worker);
    }
    return NULL;
}

static void workers_that_take_rows_for_a_model_at_once_get_the_same_one(void)
{
    bool taken[MODEL_QUEUES_ROWS] = {false};
    pthread_t thread[CLAIMANTS];
    struct scene s;

    scene_begin(&s);
    for (unsigned w = 0; w < CLAIMANTS; w++)
        thread[w] = spawn(take_rows, &s);
    for (unsigned w = 0; w < CLAIMANTS; w++)
        join(thread[w]);
    CHECK(s.wrong == 0);
    for (uint64_t model = 1; model <= MODELS; model++) {
        uint32_t row = model_queues_row(s.board, model * 3 * MODEL_QUEUES_OTHERS / 2);

        CHECK(row < MODEL_QUEUES_OTHERS && !taken[row]);
        taken[row] = true;
        CHECK(model_queues_waiting(s.second, row) == CLAIMANTS);
        CHECK(model_queues_refused_mono_us(s.second, row) == 1000 * model + CLAIMANTS - 1);
    }
    scene_end(&s);
}

int main(void)
{
    (void)alarm(120); /* a thread that waits for ever is a failure too */
    a_copy_of_a_node_is_never_a_mix_of_two_versions();
    a_copy_of_a_request_is_never_a_mix_of_two_requests();
    no_sample_is_lost_when_many_add();
    the_only_place_is_a_lock();
    of_two_that_race_for_the_last_place_exactly_one_gets_it();
    a_published_request_and_a_new_place_cannot_miss_one_another();
    no_offer_is_lost_and_each_brings_what_was_done_before_it();
    a_copy_of_a_decision_is_never_a_mix_of_two();
    what_all_workers_write_stays_usable();
    no_more_is_spent_than_was_saved();
    of_all_who_report_a_lost_connection_one_is_the_first();
    workers_that_take_rows_for_a_model_at_once_get_the_same_one();
    return 0;
}
