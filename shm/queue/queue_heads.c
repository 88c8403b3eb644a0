/*
 * queue_heads.c - the least key that waits for each node, in each worker.
 *
 * No free place meets a waiting request without one of two processes noticing.  Let A be a
 * worker that publishes a request which node N could serve, and B a process that makes room on
 * N (a worker that gives a place back; the argument is the same for a node that comes up).
 *
 *   A1  stores its words, N's among them     release
 *   A2  stores its total                     sequentially consistent
 *   A3  looks at N: gauges, state, slots     gauges sequentially consistent
 *
 *   B1  stores the gauge of N                sequentially consistent
 *   B2  loads the totals                     sequentially consistent
 *   B3  loads the words of N's row           acquire
 *
 * Take the load of A's total in B2.  Either it reads the value of A2, or a later one of A's.
 * Each of these is a release store that B2 synchronises with, so B3 sees the words of A1 or
 * later ones: B knows of the request (or A has withdrawn it since).  Or B2 reads an earlier
 * value.  Then B2 comes before A2 in the single order of all sequentially consistent
 * operations, so B1 does, too, and A3 after it; hence A3 reads B1's value of the gauge or a
 * later one: A finds the place (or another process has taken it since, and will make room
 * again).
 *
 * A2 is stored after every update of words, also when the total does not change: a request that
 * joins others in a queue whose total another leaves at the same time would otherwise have no
 * store that the argument needs.  That the value is the same does not matter; which store a
 * load reads from does.
 *
 * Node state and slots are relaxed words of the health process.  They are outside of the
 * argument, and so is a gauge that the master zeroes for a dead worker: the timer of every
 * worker that has waiting requests finds those.
 *
 * Not the whole row is read but only the columns that were ever used.  A worker raises their
 * number, sequentially consistent, before it stores its first word; a load of it in B2 or B3
 * that misses the worker comes before that in the single order, which is the second case above.
 *
 * A key needs no sequence counter: key and generation are one word, so a reader never takes the
 * key of one node of the node's row for that of another.
 */
#include "shm/queue/queue_heads.h"

#include "shm/facts/procs.h"
#include "shm/segment.h"

static uint64_t make_word(uint32_t generation, uint64_t key)
{
    if (key > QUEUE_HEADS_MAX_KEY)
        key = QUEUE_HEADS_MAX_KEY;
    return key == 0 ? 0 : (uint64_t)(uint16_t)generation << 48 | key;
}

void queue_heads_set(struct scoreboard *board, unsigned worker, unsigned node,
                     uint32_t generation, uint64_t key)
{
    _Atomic uint64_t *row = segment_queue_heads(board, node);

    if (!board->writable || row == NULL || worker >= board->geometry.n_workers)
        return;
    segment_use_column(board, worker);
    atomic_store_explicit(&row[worker], make_word(generation, key), memory_order_release);
}

void queue_heads_set_total(struct scoreboard *board, unsigned worker, uint32_t waiting)
{
    if (!board->writable || worker >= board->geometry.n_workers)
        return;
    segment_use_column(board, worker);
    atomic_store_explicit(&segment_queue_totals(board)[worker], waiting, memory_order_seq_cst);
}

static uint32_t total_of(const struct scoreboard *board, unsigned worker)
{
    return atomic_load_explicit(&segment_queue_totals(board)[worker], memory_order_seq_cst);
}

bool queue_heads_any(const struct scoreboard *board, unsigned except)
{
    uint32_t columns = segment_columns(board);

    for (uint32_t w = 0; w < columns; w++)
        if (w != except && total_of(board, w) != 0)
            return true;
    return false;
}

uint32_t queue_heads_total(const struct scoreboard *board)
{
    uint32_t columns = segment_columns(board), sum = 0;

    for (uint32_t w = 0; w < columns; w++) {
        uint32_t one = total_of(board, w);

        sum = one > UINT32_MAX - sum ? UINT32_MAX : sum + one;
    }
    return sum;
}

/* Would the worker notice an offer? */
static bool turns(const struct scoreboard *board, unsigned worker, uint64_t now_mono_us)
{
    const struct sb_proc *proc = segment_proc(board, worker);
    uint32_t state = atomic_load_explicit(&proc->state, memory_order_relaxed);
    uint64_t beat_mono_us =
        atomic_load_explicit(&proc->heartbeat_mono_us, memory_order_relaxed);

    if (state != PROC_RUNNING && state != PROC_DRAINING)
        return false;
    /* It may have moved after the caller looked at the clock. */
    return beat_mono_us >= now_mono_us || now_mono_us - beat_mono_us <= QUEUE_HEADS_BEAT_US;
}

bool queue_heads_least(const struct scoreboard *board, unsigned node, uint32_t generation,
                       unsigned except, uint64_t now_mono_us, struct queue_head *out)
{
    const _Atomic uint64_t *row = segment_queue_heads(board, node);
    uint32_t columns = row == NULL ? 0 : segment_columns(board);
    uint64_t wanted = (uint64_t)(uint16_t)generation << 48;
    uint64_t least = 0;

    for (uint32_t w = 0; w < columns; w++) {
        uint64_t key = atomic_load_explicit(&row[w], memory_order_acquire) ^ wanted;

        /* Another generation leaves a bit above the key. */
        if (key == 0 || key > QUEUE_HEADS_MAX_KEY || w == except ||
            (least != 0 && key >= least) || !turns(board, w, now_mono_us))
            continue;
        least = key;
        *out = (struct queue_head){.worker = w, .key = key};
    }
    return least != 0;
}

void queue_heads_clear_worker(struct scoreboard *board, unsigned worker)
{
    if (!board->writable || worker >= board->geometry.n_workers)
        return;
    for (uint32_t node = 0; node < board->geometry.n_nodes; node++)
        segment_zero_word(segment_queue_heads(board, node) + worker);
    atomic_store_explicit(&segment_queue_totals(board)[worker], 0, memory_order_seq_cst);
}
