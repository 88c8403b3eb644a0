/*
 * test_queue_shared.c - one queue over several processes, each with worker/queue/, some of
 * which are killed or stopped.
 *
 * The processes share a scoreboard and eventfds, as workers do.  In the place of a request is a
 * waiter that claims a slot on a node of its reach, holds it for a moment and gives it back.
 * Every waiter leaves in memory of the parent's when it was published, when its worker last
 * looked before it started, and when it started where.  From that the parent says whether the
 * promises hold:
 *
 *   meet      an open node and a waiter that could use it meet within 20 ms (99 of 100) and 250
 *             ms at most; 1 s where a worker died or stood meanwhile
 *   order     of two that are published and could use the same node the lower key goes first
 *   no loss   every waiter of a process that lives is served, and no slot is lost
 *   cap       no node ever runs more than its slots
 *
 * With windows (policy/route/hold.h) a node takes one waiter at a time until that has its
 * "first token"; a waiter that finds no open node is planned on one of its reach, moves now and
 * then, and is unbound in between.
 *
 * Times are those of a busy machine: a yardstick, how late the parent itself is woken, is
 * added.
 */
#include <criterion/criterion.h>
#include <poll.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/io/loop.h"
#include "policy/route/times.h"
#include "shm/facts/nodes.h"
#include "shm/facts/procs.h"
#include "shm/facts/speeds.h"
#include "shm/queue/plans.h"
#include "shm/queue/queue_heads.h"
#include "shm/reap.h"
#include "shm/share/gauges.h"
#include "tests/unit/shm/board.h"
#include "worker/queue/queue.h"

enum { WORKERS = 6, NODES = 4, EACH = 200, LIVES = 10, MAX_PAST = WORKERS * EACH * LIVES };
enum { MAX_GAPS = 512, MAX_YARDS = 200000 };
#define GENERATION 1u
#define ANY        UINT32_MAX /* worker */
#define NO_ADVANCE (30 * US_PER_S)
/* A worker that has not turned for so long did not run; one that has not turned for longer may
 * have been passed over. */
#define GAP_US         (40 * US_PER_MS)
#define PASSED_OVER_US (QUEUE_HEADS_BEAT_US / 2)

enum fate { COMING = 0, WAITS, RUNS, DONE, LOST };

struct past {
    _Atomic uint32_t fate; /* enum fate */
    uint32_t worker, life, node, mask, kind;
    bool queued;
    uint64_t key;
    uint64_t published_us, look_us, start_us, opened_us;
};

struct gap {
    uint64_t from_us, to_us;
    uint32_t worker;
};

static struct shared {
    _Atomic uint32_t made; /* rows of `past` in use */
    _Atomic uint32_t done;
    _Atomic uint32_t at_work[NODES], most[NODES];
    _Atomic uint64_t
        opened_us[NODES];       /* since when the node is open; 0 = it is not, or unclear */
    _Atomic uint32_t served[2]; /* by kind */
    _Atomic uint32_t stop;
    _Atomic uint32_t gaps;
    struct gap gap[MAX_GAPS];
    struct past past[MAX_PAST];
} * shared;

struct plan {
    uint32_t masks[8]; /* the reach of each kind of waiter: a bit per node */
    uint32_t kinds;
    uint32_t slots;      /* of each node */
    uint32_t each;       /* waiters of each worker; 0 = `clients` that come again and again */
    uint32_t clients;    /* of each kind, in each worker */
    uint64_t arrive_us;  /* a waiter of each worker about so often */
    uint64_t hold_us;    /* ... and held so long, about */
    uint64_t classes_us; /* what the second and third priority class cost */
    bool only_woken;     /* the queue's timer does not run */
    bool windows;
};

#define UNBOUND   UINT32_MAX
#define CHARGE_US 1000000000u /* no window opens before the first token */

struct waiter {
    struct queue_entry entry;
    struct timer hold, first;
    uint32_t planned; /* the node; UNBOUND = none */
    struct past *past;
    uint32_t mask, kind, node;
};

static struct scoreboard *board;
static int wake_fds[WORKERS];
static const struct plan *plan;
static struct {
    struct loop loop;
    struct queue queue;
    struct timer arrivals;
    struct waiter waiter[EACH];
    struct waiter *fresh[EACH]; /* added in this turn: published when it is over */
    unsigned fresh_count, came, left, life, slot;
    uint64_t seed;
} w;
static uint64_t yards[MAX_YARDS];
static unsigned yards_count;

static uint32_t next_random(uint64_t *state)
{
    *state = *state * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (uint32_t)(*state >> 33);
}

/* ---- a worker ---- */

static void come(struct waiter *waiter);

/* Room was made there: since when is it open? */
static void note_room(unsigned node)
{
    uint64_t closed = 0;

    if (gauges_sum(board, node, GENERATION).charged_us == 0)
        (void)atomic_compare_exchange_strong(&shared->opened_us[node], &closed,
                                             clock_mono_us());
    queue_room(&w.queue, node);
}

static void have_first_token(struct timer *timer)
{
    struct waiter *waiter = CONTAINER_OF(timer, struct waiter, first);

    gauges_prefill_done(board, w.slot, waiter->node, GENERATION, CHARGE_US);
    note_room(waiter->node);
}

static void leave(struct timer *timer)
{
    struct waiter *waiter = CONTAINER_OF(timer, struct waiter, hold);

    shared->at_work[waiter->node]--;
    gauges_release(board, w.slot, waiter->node, GENERATION, 0);
    note_room(waiter->node);
    shared->served[waiter->kind % 2]++;
    waiter->past->fate = DONE;
    shared->done++;
    if (plan->each == 0)
        come(waiter);
    else
        w.left++;
}

static void run(struct waiter *waiter, unsigned node)
{
    struct past *past = waiter->past;
    uint32_t now = ++shared->at_work[node], most;

    for (most = shared->most[node];
         now > most && !atomic_compare_exchange_weak(&shared->most[node], &most, now);)
        ;
    past->opened_us = shared->opened_us[node];
    if (plan->windows || gauges_sum(board, node, GENERATION).inflight >= plan->slots)
        shared->opened_us[node] = 0;
    waiter->node = node;
    past->node = node;
    past->look_us = loop_now_us(&w.loop); /* the turn began no later than it looked */
    past->start_us = clock_mono_us();
    past->fate = RUNS;
    timer_start(&w.loop, &waiter->hold,
                plan->hold_us / 2 + next_random(&w.seed) % plan->hold_us, leave);
    if (plan->windows)
        timer_start(&w.loop, &waiter->first, next_random(&w.seed) % (plan->hold_us / 2),
                    have_first_token);
}

static uint32_t reach_of(const struct waiter *waiter)
{
    return waiter->planned == UNBOUND ? waiter->mask : UINT32_C(1) << waiter->planned;
}

static void drop_plan(struct waiter *waiter)
{
    if (waiter->planned != UNBOUND)
        plans_drop(board, w.slot, waiter->planned, GENERATION, 1);
    waiter->planned = UNBOUND;
}

/* A new plan, or none. */
static void make_plan(struct waiter *waiter)
{
    uint32_t node = next_random(&w.seed) % (NODES + 1);

    drop_plan(waiter);
    if (node == NODES || (waiter->mask >> node & 1) == 0)
        return;
    plans_add(board, w.slot, node, GENERATION, 1);
    waiter->planned = node;
}

static uint64_t need_of(const struct waiter *waiter)
{
    return waiter->mask | (uint64_t)(waiter->planned + 1) << 32;
}

static bool has_room(unsigned node)
{
    return !plan->windows || gauges_sum(board, node, GENERATION).charged_us == 0;
}

static bool claim(struct waiter *waiter, const struct queue_rights *rights)
{
    unsigned first = next_random(&w.seed) % NODES;

    for (unsigned i = 0; i < NODES; i++) {
        unsigned node = (first + i) % NODES;

        if ((reach_of(waiter) >> node & 1) == 0 ||
            (rights != NULL && !node_set_has(&rights->slots, node)) || !has_room(node) ||
            !gauges_claim(board, w.slot, node, GENERATION, plan->windows ? CHARGE_US : 0,
                          plan->slots))
            continue;
        drop_plan(waiter);
        queue_remove(&w.queue, &waiter->entry);
        run(waiter, node);
        return true;
    }
    return false;
}

static enum queue_start start_entry(struct queue_entry *entry,
                                    const struct queue_rights *rights)
{
    struct waiter *waiter = CONTAINER_OF(entry, struct waiter, entry);

    if (rights->overcommit_only && (!plan->windows || next_random(&w.seed) % 4 != 0))
        return QUEUE_DECLINED;
    if (!rights->overcommit_only)
        return claim(waiter, rights) ? QUEUE_STARTED : QUEUE_LOST;
    make_plan(waiter);
    queue_move(&w.queue, entry, need_of(waiter));
    /* It competes for other nodes, from when that is published on. */
    waiter->past->mask = reach_of(waiter);
    waiter->past->published_us = UINT64_MAX;
    if (w.fresh_count < EACH)
        w.fresh[w.fresh_count++] = waiter;
    return QUEUE_PLANNED;
}

static void nodes_of(uint32_t mask, struct queue_reach *out)
{
    out->nodes.word[0] = mask;
    for (unsigned node = 0; node < NODES; node++)
        out->generation[node] = GENERATION;
}

static void reach(const struct queue_entry *entry, struct queue_reach *out)
{
    nodes_of(reach_of(CONTAINER_OF(entry, const struct waiter, entry)), out);
}

/* A newcomer has its key and no other right. */
static void come(struct waiter *waiter)
{
    struct queue_rights rights;
    const struct queue_rights *given = NULL;
    struct past *past = &shared->past[shared->made++ % MAX_PAST];

    *past = (struct past){.worker = w.slot,
                          .life = w.life,
                          .mask = waiter->mask,
                          .kind = waiter->kind,
                          .key = clock_mono_us() + next_random(&w.seed) % 3 * plan->classes_us};
    waiter->past = past;
    waiter->planned = UNBOUND;
    if (!queue_is_idle(&w.queue)) {
        struct queue_reach reached = queue_reach(&w.queue);

        nodes_of(waiter->mask, &reached);
        queue_rights(&w.queue, NULL, past->key, &reached.nodes, &rights);
        given = &rights;
    }
    if (claim(waiter, given))
        return;
    if (plan->windows)
        make_plan(waiter);
    past->mask = reach_of(waiter);
    past->published_us = UINT64_MAX;
    cr_assert_eq(queue_add(&w.queue, &waiter->entry, need_of(waiter), past->key), 0);
    if (plan->only_woken)
        timer_stop(&w.loop, &w.queue.timer);
    past->queued = true;
    if (w.fresh_count < EACH)
        w.fresh[w.fresh_count++] = waiter;
}

static void arrive(struct timer *timer)
{
    struct waiter *waiter = &w.waiter[w.came++];

    waiter->kind = next_random(&w.seed) % plan->kinds;
    waiter->mask = plan->masks[waiter->kind];
    come(waiter);
    if (w.came < plan->each)
        timer_start(&w.loop, timer, next_random(&w.seed) % (2 * plan->arrive_us), arrive);
}

/* Everything that was added in this turn has been published by now. */
static void note_published(void)
{
    uint64_t now = clock_mono_us();

    for (unsigned i = 0; i < w.fresh_count; i++) {
        struct past *past = w.fresh[i]->past;
        uint32_t coming = COMING;

        past->published_us = now;
        (void)atomic_compare_exchange_strong(&past->fate, &coming, WAITS);
    }
    w.fresh_count = 0;
}

static void on_woken(struct watch *watch, void *data)
{
    uint64_t count;

    (void)watch;
    (void)data;
    if (read(wake_fds[w.slot], &count, sizeof(count)) == sizeof(count))
        queue_woken(&w.queue);
}

/* The worker did not run, or did not live. */
static void note_gap(uint32_t worker, uint64_t from_us, uint64_t to_us)
{
    uint32_t at = shared->gaps++;

    if (at < MAX_GAPS)
        shared->gap[at] = (struct gap){from_us, to_us, worker};
}

static _Noreturn void work(unsigned slot, unsigned life, uint64_t seed)
{
    static const struct queue_owner owner = {.start = start_entry, .reach = reach};
    static struct route_times times;
    uint64_t before_us;

    (void)prctl(PR_SET_PDEATHSIG, SIGKILL);
    memset(&w, 0, sizeof(w));
    times = route_times(1);
    w.seed = seed;
    w.life = life;
    w.slot = slot;
    if (loop_init(&w.loop, NULL) != 0)
        _exit(1);
    queue_init(&w.queue, &w.loop, board, slot, wake_fds, plan->windows ? US_PER_S : 0, &times,
               &owner);
    if (watch_start(&w.loop, wake_fds[slot], on_woken, NULL, NULL) == NULL)
        _exit(1);
    procs_heartbeat(board, slot, clock_mono_us());
    procs_set_state(board, slot, PROC_RUNNING);
    if (plan->each != 0)
        timer_start(&w.loop, &w.arrivals, 0, arrive);
    for (unsigned i = 0; plan->each == 0 && i < plan->kinds * plan->clients; i++) {
        w.waiter[i].kind = i % plan->kinds;
        w.waiter[i].mask = plan->masks[i % plan->kinds];
        come(&w.waiter[i]);
    }
    before_us = clock_mono_us();
    while (shared->stop == 0 && (plan->each == 0 || w.left < plan->each)) {
        uint64_t now;

        loop_turn(&w.loop, 20 * US_PER_MS);
        note_published();
        now = clock_mono_us();
        procs_heartbeat(board, slot, now);
        if (now - before_us >= GAP_US)
            note_gap(w.slot, before_us, now);
        before_us = now;
    }
    _exit(0);
}

/* ---- the master ---- */

static pid_t start(unsigned slot, unsigned life, uint64_t seed)
{
    pid_t pid;

    procs_assign(board, slot, 1, life != 0);
    pid = fork();
    cr_assert_neq(pid, -1);
    if (pid == 0)
        work(slot, life, seed);
    procs_set_pid(board, slot, pid);
    return pid;
}

static void begin(struct temporary *t, const struct plan *with)
{
    struct node_info info = {.name = "node", .slots = with->slots};

    plan = with;
    yards_count = 0;
    board = board_make(t, NODES, WORKERS, 1);
    shared =
        mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    cr_assert_neq(shared, MAP_FAILED);
    for (unsigned node = 0; node < NODES; node++) {
        cr_assert_eq(nodes_claim(board, 1), (int)node);
        nodes_publish(board, node, &info);
        nodes_set_state(board, node, NODE_UP, NODE_REASON_NONE, 1);
    }
    for (unsigned slot = 0; slot < WORKERS; slot++) {
        wake_fds[slot] = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
        cr_assert_neq(wake_fds[slot], -1);
    }
}

static void end(struct temporary *t)
{
    for (unsigned node = 0; node < NODES; node++)
        cr_expect_eq(gauges_sum(board, node, GENERATION).inflight, 0, "a slot was lost");
    for (unsigned node = 0; node < NODES; node++)
        cr_expect_eq(plans_sum(board, node, GENERATION, clock_mono_us()).count, 0,
                     "a plan was left");
    cr_expect_not(queue_heads_any(board, QUEUE_HEADS_NOBODY));
    for (unsigned slot = 0; slot < WORKERS; slot++)
        (void)close(wake_fds[slot]);
    (void)munmap(shared, sizeof(*shared));
    board_drop(t, board);
}

/* A millisecond passes; how much more it was is what the machine takes to wake a process. */
static void pause_a_little(void)
{
    uint64_t before_us = clock_mono_us();

    (void)poll(NULL, 0, 1);
    if (yards_count < MAX_YARDS)
        yards[yards_count++] = clock_mono_us() - before_us;
}

/* Waits until `done` are, and fails when nothing has moved for too long. */
static void wait_for(uint32_t done)
{
    uint32_t before = shared->done;
    uint64_t since_us = clock_mono_us();

    while (shared->done < done) {
        pause_a_little();
        if (shared->done != before) {
            before = shared->done;
            since_us = clock_mono_us();
        }
        cr_assert_lt(clock_mono_us() - since_us, NO_ADVANCE,
                     "stuck: %u of %u are done, %u wait", before, done,
                     queue_heads_total(board));
    }
}

static void expect_end(pid_t pid)
{
    int status;

    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status) && WEXITSTATUS(status) == 0, "status %d", status);
}

/* Does as supervise.c when a worker is gone. */
static void bury(unsigned slot, unsigned life)
{
    static const uint64_t one = 1;

    reap_process(board, slot);
    for (unsigned other = 0; other < WORKERS; other++)
        cr_assert_eq(write(wake_fds[other], &one, sizeof(one)), sizeof(one));
    for (uint32_t i = 0; i < shared->made && i < MAX_PAST; i++) {
        struct past *past = &shared->past[i];

        if (past->worker == slot && past->life == life && past->fate != DONE)
            past->fate = LOST;
    }
}

static int compare(const void *a, const void *b)
{
    uint64_t left = *(const uint64_t *)a, right = *(const uint64_t *)b;

    return (left > right) - (left < right);
}

/* The value that `permille` of them do not exceed. */
static uint64_t quantile(uint64_t *values, unsigned n, unsigned permille)
{
    qsort(values, n, sizeof(*values), compare);
    return n == 0 ? 0 : values[(uint64_t)(n - 1) * permille / 1000];
}

/* Did the worker not turn for so long at a time, at some time in between?  ANY: did one of them
 * not turn, or die? */
static bool stood_still(uint32_t worker, uint64_t gap_us, uint64_t from_us, uint64_t to_us)
{
    if (shared->gaps > MAX_GAPS)
        return true;
    for (uint32_t i = 0; i < shared->gaps; i++) {
        const struct gap *gap = &shared->gap[i];

        if ((worker == ANY || gap->worker == worker) && gap->to_us - gap->from_us >= gap_us &&
            gap->from_us < to_us && gap->to_us > from_us)
            return true;
    }
    return false;
}

static void expect_at_most(const char *what, uint64_t us, uint64_t limit_us, uint64_t late_us)
{
    cr_expect_leq(us, limit_us + late_us, "%s: %llu us, yardstick %llu us", what,
                  (unsigned long long)us, (unsigned long long)late_us);
}

/* meet: from when both were there until the waiter ran, unless its worker did not. */
static void expect_meetings(void)
{
    static uint64_t calm[MAX_PAST], troubled[MAX_PAST];
    uint64_t late_us = quantile(yards, yards_count, 990);
    uint64_t latest_us = quantile(yards, yards_count, 1000);
    unsigned n = 0, m = 0;

    for (uint32_t i = 0; i < shared->made; i++) {
        const struct past *past = &shared->past[i];
        uint64_t from_us =
            past->opened_us > past->published_us ? past->opened_us : past->published_us;
        uint64_t took_us = past->start_us > from_us ? past->start_us - from_us : 0;

        if (past->fate != DONE || !past->queued || past->opened_us == 0 ||
            past->published_us == UINT64_MAX ||
            stood_still(past->worker, GAP_US, from_us, past->start_us))
            continue;
        if (stood_still(ANY, 0, from_us, past->start_us))
            troubled[m++] = took_us;
        else
            calm[n++] = took_us;
    }
    cr_assert_gt(n + m, 100, "few waited");
    expect_at_most("p99", quantile(calm, n, 990), 20 * US_PER_MS, late_us);
    expect_at_most("longest", quantile(calm, n, 1000), 250 * US_PER_MS, latest_us);
    expect_at_most("longest where a worker died or stood", quantile(troubled, m, 1000),
                   US_PER_S, latest_us);
}

/* order: pairs in which b was published before a's worker looked, had the lower key, could have
 * used the place, and came later. */
static void expect_order(void)
{
    unsigned compared = 0, overtaken = 0;

    for (uint32_t i = 0; i < shared->made; i++) {
        const struct past *a = &shared->past[i];

        if (a->fate != DONE)
            continue;
        for (uint32_t j = 0; j < shared->made; j++) {
            const struct past *b = &shared->past[j];

            if (b->fate != DONE || !b->queued || b->published_us >= a->look_us ||
                b->start_us <= a->start_us || (b->mask >> a->node & 1) == 0 ||
                stood_still(b->worker, PASSED_OVER_US, b->published_us, a->start_us))
                continue;
            compared++;
            overtaken += b->key < a->key;
        }
    }
    cr_expect_eq(overtaken, 0, "%u of %u pairs", overtaken, compared);
    /* Most that are planned compete for one node only. */
    cr_expect_gt(compared, WORKERS * EACH / (plan->windows ? 8 : 1), "they waited together");
}

/* Overlapping needs: a request competes with some for a node and not with others. */
static const struct plan crowd = {.masks = {0x3, 0x7, 0xc, 0x8, 0xf, 0x1, 0x5},
                                  .kinds = 7,
                                  .slots = 2,
                                  .each = EACH,
                                  .arrive_us = 500,
                                  .hold_us = 800,
                                  .classes_us = 20000};

static void expect_all_meet_in_order(const struct plan *with)
{
    struct temporary t;
    pid_t pid[WORKERS];
    uint64_t seed = 20261129;

    begin(&t, with);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed));
    wait_for(WORKERS * EACH);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    for (unsigned node = 0; node < NODES; node++)
        cr_expect_leq(shared->most[node], with->slots, "more than the cap");
    expect_order();
    expect_meetings();
    end(&t);
}

static void expect_kills_cost_own_requests_alone(const struct plan *with)
{
    struct temporary t;
    pid_t pid[WORKERS];
    unsigned life[WORKERS] = {0};
    uint64_t seed = 20261130, killed_us;

    begin(&t, with);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed));
    for (int kills = 0; kills < 25; kills++) {
        unsigned slot = next_random(&seed) % (WORKERS - 1); /* the last one lives on */

        if (life[slot] + 1 == LIVES)
            continue;
        wait_for(shared->done + 1 + next_random(&seed) % 20);
        killed_us = clock_mono_us();
        cr_assert_eq(kill(pid[slot], SIGKILL), 0);
        cr_assert_eq(waitpid(pid[slot], NULL, 0), pid[slot]);
        bury(slot, life[slot]);
        note_gap(slot, killed_us, clock_mono_us());
        pid[slot] = start(slot, ++life[slot], next_random(&seed));
    }
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    for (uint32_t i = 0; i < shared->made; i++) {
        const struct past *past = &shared->past[i];

        cr_assert(past->fate == DONE ||
                      (past->fate == LOST && past->life != life[past->worker]),
                  "a request of worker %u was lost", past->worker);
    }
    expect_order();
    expect_meetings();
    end(&t);
}

/* All takes longer than with the others, so that several stops fall into it. */
static void expect_stops_hold_up_nobody(struct plan slow)
{
    const struct plan *with = &slow;
    struct temporary t;
    pid_t pid[WORKERS];
    uint64_t seed = 20261201;

    slow.arrive_us *= 4;
    slow.hold_us *= 4;
    begin(&t, with);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed));
    for (int stops = 0; stops < 6 && shared->done < WORKERS * EACH * 3 / 4; stops++) {
        unsigned slot = next_random(&seed) % WORKERS;

        wait_for(shared->done + 1 + next_random(&seed) % 40);
        cr_assert_eq(kill(pid[slot], SIGSTOP), 0);
        for (uint64_t until =
                 clock_mono_us() + 100 * US_PER_MS + next_random(&seed) % (500 * US_PER_MS);
             clock_mono_us() < until;)
            pause_a_little();
        cr_assert_eq(kill(pid[slot], SIGCONT), 0);
    }
    wait_for(WORKERS * EACH);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    for (unsigned node = 0; node < NODES; node++)
        cr_expect_leq(shared->most[node], with->slots, "more than the cap");
    expect_order();
    expect_meetings();
    end(&t);
}

/* Long prompts: a node takes one at a time until it has its first token. */
static const struct plan held_crowd = {.masks = {0x3, 0x7, 0xc, 0x8, 0xf, 0x1, 0x5},
                                       .kinds = 7,
                                       .slots = 4,
                                       .each = EACH,
                                       .arrive_us = 500,
                                       .hold_us = 800,
                                       .classes_us = 20000,
                                       .windows = true};

Test(queue_shared, an_open_node_and_a_request_that_could_use_it_meet_in_the_order_of_keys)
{
    expect_all_meet_in_order(&crowd);
}

Test(queue_shared, so_do_windows_that_open_and_requests_that_are_planned)
{
    expect_all_meet_in_order(&held_crowd);
}

Test(queue_shared, workers_that_are_killed_lose_their_own_requests_and_no_others)
{
    expect_kills_cost_own_requests_alone(&crowd);
}

Test(queue_shared, and_their_own_plans_and_windows)
{
    expect_kills_cost_own_requests_alone(&held_crowd);
}

Test(queue_shared, workers_that_are_stopped_hold_up_no_other_for_long)
{
    expect_stops_hold_up_nobody(crowd);
}

Test(queue_shared, with_plans_or_without)
{
    expect_stops_hold_up_nobody(held_crowd);
}

static void expect_none_missed(struct plan with)
{
    struct temporary t;
    pid_t pid[WORKERS];
    uint64_t seed = 20261203;

    with.only_woken = true;
    begin(&t, &with);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        pid[slot] = start(slot, 0, next_random(&seed));
    wait_for(WORKERS * EACH);
    for (unsigned slot = 0; slot < WORKERS; slot++)
        expect_end(pid[slot]);
    expect_order();
    end(&t);
}

Test(queue_shared, no_offer_and_no_look_is_missed_where_no_timer_helps)
{
    expect_none_missed(crowd);
}

Test(queue_shared, nor_is_a_window_that_a_first_token_opens)
{
    expect_none_missed(held_crowd);
}

/* Two models on the same nodes, as many clients each, that come again and again. */
static const struct plan rivals = {.masks = {0x3, 0x3},
                                   .kinds = 2,
                                   .slots = 4,
                                   .clients = 12,
                                   .hold_us = 4000,
                                   .classes_us = 0};

Test(queue_shared, two_models_of_equal_demand_are_served_alike)
{
    struct temporary t;
    struct plan with = rivals;
    pid_t pid[2];
    uint64_t seed = 20261202;
    uint32_t less, more;

    begin(&t, &with);
    for (unsigned slot = 0; slot < 2; slot++)
        pid[slot] = start(slot, 0, next_random(&seed));
    wait_for(2000);
    shared->stop = 1;
    less = shared->served[0] < shared->served[1] ? shared->served[0] : shared->served[1];
    more = shared->served[0] + shared->served[1] - less;
    cr_expect_leq(more * 10, less * 13, "%u and %u", less, more);
    for (unsigned slot = 0; slot < 2; slot++) {
        expect_end(pid[slot]);
        reap_process(board, slot);
    }
    end(&t);
}
