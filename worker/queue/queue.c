/*
 * queue.c - the requests of this worker that wait for a place on a node.
 *
 * All work is done once, at the end of a turn: the pass.  It works out the words from the lists
 * (the first list, by key, that reaches a node has the node's least key), publishes those that
 * changed, and looks at each node for which something may have changed: one where this worker
 * made room, one that was offered, one that is wanted anew, or all of them on a timer.  An open
 * node is given to the least key of its row, in this worker or by an offer to another.  The
 * pass repeats until nothing changes; it tries at most TRIES_PER_TURN entries and goes on in
 * the next turn.  It costs lists x nodes / 64, never entries x nodes.
 *
 * At each timer the first few entries are priced, some of the others by turns, and any entry
 * whose plan was void: their owner looks whether a plan, another plan or a place beyond the
 * slots would do them good.
 *
 * The timer finds changes that no process announces: a node that comes up, a ramp, more slots,
 * the end of a pause, an offer to a worker that died, a claim lost to a worker that was stopped
 * in the middle of its own.
 */
#include "worker/queue/queue.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "policy/route/times.h"
#include "shm/queue/queue_heads.h"

#define LOOK_US        (10 * US_PER_MS)
#define TRIES_PER_TURN 64u
/* Entries that are priced at each timer, and those whose plan was void at each turn. */
#define PRICED         16u
#define PRICED_PENDING 64u
/* Besides, so many at each timer, of one list after the other: what waits behind many entries
 * that nothing can be done for has a look, too. */
#define PRICED_IN_TURN 4u
/* Positions in a list of n are counted again after n times this, so that the whole costs next
 * to nothing and an entry near the front has the truth. */
#define COUNT_AGAIN_US 20
#define HINTS          4u

struct queue_list {
    uint64_t need;
    struct queue_list *next; /* in its bucket */
    struct queue_entry *first, *last;
    struct queue_entry *in_turn; /* the next to be priced in its turn; NULL = the first */
    uint32_t count;
    uint32_t renewals; /* as of `reach` */
    struct node_set reach;
    uint64_t until_mono_us;          /* of `reach` */
    struct node_set declined;        /* not reached until ... */
    uint64_t declined_mono_us;       /* ... then, at the latest */
    uint64_t counted_mono_us;        /* when each entry got its `position` */
    struct queue_entry *hint[HINTS]; /* the last that were put in, where they still stand */
    unsigned next_hint;
};

static uint64_t earlier(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static void set_or(struct node_set *to, const struct node_set *from)
{
    for (unsigned i = 0; i < NODE_SET_WORDS; i++)
        to->word[i] |= from->word[i];
}

static void set_subtract(struct node_set *from, const struct node_set *what)
{
    for (unsigned i = 0; i < NODE_SET_WORDS; i++)
        from->word[i] &= ~what->word[i];
}

static bool set_is_empty(const struct node_set *set)
{
    uint64_t any = 0;

    for (unsigned i = 0; i < NODE_SET_WORDS; i++)
        any |= set->word[i];
    return any == 0;
}

/* ---- the order of lists ---------------------------------------------------------------- */

/* Where a list whose first key is `key` belongs: behind all that have this key or a lower one.
 */
static size_t place_of(const struct queue *q, uint64_t key)
{
    size_t low = 0, high = q->lists_count;

    while (low < high) {
        size_t middle = low + (high - low) / 2;

        if (q->lists[middle]->first->key <= key)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

/* Keys decide where to look, and equal ones are looked through. */
static size_t index_of(const struct queue *q, const struct queue_list *list)
{
    size_t at = place_of(q, list->first->key);

    while (q->lists[at - 1] != list)
        at--;
    return at - 1;
}

static void take_out(struct queue *q, const struct queue_list *list)
{
    size_t at = index_of(q, list);

    q->lists_count--;
    memmove(&q->lists[at], &q->lists[at + 1],
            (q->lists_count - at) * sizeof(struct queue_list *));
}

static void put_in(struct queue *q, struct queue_list *list)
{
    size_t at = place_of(q, list->first->key);

    memmove(&q->lists[at + 1], &q->lists[at],
            (q->lists_count - at) * sizeof(struct queue_list *));
    q->lists[at] = list;
    q->lists_count++;
}

static int make_room(struct queue *q)
{
    size_t cap = q->lists_cap == 0 ? 16 : q->lists_cap * 2;
    struct queue_list **grown;

    if (q->lists_count < q->lists_cap)
        return 0;
    grown = realloc(q->lists, cap * sizeof(struct queue_list *));
    if (grown == NULL)
        return DRV_ENOMEM;
    q->lists = grown;
    q->lists_cap = cap;
    return 0;
}

static struct queue_list **bucket_of(struct queue *q, uint64_t need)
{
    return &q->bucket[need % ARRAY_LEN(q->bucket)];
}

/* The list of a need, which is new and in no order if it is empty; NULL: out of memory. */
static struct queue_list *list_for(struct queue *q, uint64_t need)
{
    struct queue_list **bucket = bucket_of(q, need), *list;

    for (list = *bucket; list != NULL; list = list->next)
        if (list->need == need)
            return list;
    if (make_room(q) != 0)
        return NULL;
    list = calloc(1, sizeof(*list));
    if (list == NULL)
        return NULL;
    list->need = need;
    list->next = *bucket;
    *bucket = list;
    list->renewals = q->renewals - 1; /* reach() is to be asked */
    return list;
}

static void drop_list(struct queue *q, struct queue_list *list)
{
    struct queue_list **link = bucket_of(q, list->need);

    while (*link != list)
        link = &(*link)->next;
    *link = list->next;
    free(list);
}

/* ---- entries --------------------------------------------------------------------------- */

/*
 * The entry of the list that a new one with this key follows; NULL = none.  The keys of each
 * priority class rise with time, so the place is near the end or near one of the last that were
 * put in.
 */
static struct queue_entry *find_before(const struct queue_list *list, uint64_t key)
{
    struct queue_entry *at = NULL;

    if (list->last == NULL || list->last->key <= key)
        return list->last;
    for (unsigned i = 0; i < HINTS; i++) {
        struct queue_entry *hint = list->hint[i];

        if (hint != NULL && hint->key <= key && (at == NULL || hint->key > at->key))
            at = hint;
    }
    if (at == NULL) {
        for (at = list->last; at != NULL && at->key > key;)
            at = at->prev;
        return at;
    }
    while (at->next != NULL && at->next->key <= key)
        at = at->next;
    return at;
}

static void link_entry(struct queue_list *list, struct queue_entry *entry)
{
    struct queue_entry *before = find_before(list, entry->key);

    entry->list = list;
    entry->prev = before;
    entry->next = before == NULL ? list->first : before->next;
    entry->position = before == NULL ? 0 : before->position + 1;
    if (entry->next != NULL)
        entry->next->prev = entry;
    else
        list->last = entry;
    if (before != NULL)
        before->next = entry;
    else
        list->first = entry;
    list->count++;
    list->hint[list->next_hint++ % HINTS] = entry;
}

static void unlink_entry(struct queue_list *list, struct queue_entry *entry)
{
    for (unsigned i = 0; i < HINTS; i++)
        if (list->hint[i] == entry)
            list->hint[i] = entry->prev;
    if (list->in_turn == entry)
        list->in_turn = entry->next;
    if (entry->prev != NULL)
        entry->prev->next = entry->next;
    else
        list->first = entry->next;
    if (entry->next != NULL)
        entry->next->prev = entry->prev;
    else
        list->last = entry->prev;
    list->count--;
    entry->prev = NULL;
    entry->next = NULL;
    entry->list = NULL;
}

/* ---- the first entry ------------------------------------------------------------------- */

static bool is_stale(const struct queue *q, const struct queue_list *list, uint64_t now)
{
    return list->renewals != q->renewals || list->until_mono_us <= now;
}

struct queue_reach queue_reach(struct queue *q)
{
    return (struct queue_reach){.until_mono_us = UINT64_MAX, .generation = q->generation};
}

/* The nodes that the list's entries could use now. */
static const struct node_set *reach_of(struct queue *q, struct queue_list *list)
{
    uint64_t now = loop_now_us(q->loop);
    struct queue_reach reach;

    if (!is_stale(q, list, now))
        return &list->reach;
    reach = queue_reach(q);
    q->owner->reach(list->first, &reach);
    list->renewals = q->renewals;
    list->until_mono_us = reach.until_mono_us;
    list->reach = reach.nodes;
    if (list->declined_mono_us > now) {
        set_subtract(&list->reach, &list->declined);
        list->until_mono_us = earlier(list->until_mono_us, list->declined_mono_us);
    }
    q->until_mono_us = earlier(q->until_mono_us, list->until_mono_us);
    return &list->reach;
}

/* The list whose first entry goes first among those here that could use the node, or NULL. */
static struct queue_list *first_for(struct queue *q, unsigned node)
{
    for (size_t i = 0; i < q->lists_count; i++)
        if (node_set_has(reach_of(q, q->lists[i]), node))
            return q->lists[i];
    return NULL;
}

/* Does the head of another worker's queue go before a key here? */
static bool goes_first(const struct queue *q, const struct queue_head *head, uint64_t key)
{
    return head->key < key || (head->key == key && head->worker < q->announce.worker);
}

bool queue_is_idle(const struct queue *q)
{
    return q->waiting == 0 && !announce_any_other(&q->announce);
}

/* Takes from the rights what entries of this worker go first for. */
static void yield_to_own(struct queue *q, const struct queue_entry *entry, uint64_t key,
                         struct queue_rights *rights)
{
    for (size_t i = 0; i < q->lists_count; i++) {
        struct queue_list *list = q->lists[i];

        if (list->first == entry || list->first->key > key)
            return;
        set_subtract(&rights->slots, reach_of(q, list));
        if (list->first->key + q->announce.times->overcommit_us < key)
            set_subtract(&rights->beyond, reach_of(q, list));
    }
}

/* Takes from the rights what entries of other workers go first for. */
static void yield_to_others(struct queue *q, uint64_t key, struct node_set nodes,
                            struct queue_rights *rights)
{
    uint64_t now = loop_now_us(q->loop);
    int node;

    while ((node = node_set_pop(&nodes)) != -1) {
        unsigned n = (unsigned)node;
        struct queue_head head;

        if (!announce_least_other(&q->announce, n, q->generation[n], now, &head))
            continue;
        if (goes_first(q, &head, key))
            node_set_remove(&rights->slots, n);
        if (head.key + q->announce.times->overcommit_us < key)
            node_set_remove(&rights->beyond, n);
    }
}

void queue_rights(struct queue *q, const struct queue_entry *entry, uint64_t key,
                  const struct node_set *nodes, struct queue_rights *out)
{
    *out = (struct queue_rights){.slots = *nodes, .beyond = *nodes};
    yield_to_own(q, entry, key, out);
    if (announce_any_other(&q->announce))
        yield_to_others(q, key, *nodes, out);
}

/* ---- the pass -------------------------------------------------------------------------- */

static void publish(struct queue *q)
{
    static struct announce_heads heads; /* one thread; large */

    q->dirty = false;
    q->until_mono_us = UINT64_MAX;
    memset(&heads.nodes, 0, sizeof(heads.nodes));
    for (size_t i = 0; i < q->lists_count; i++) {
        struct node_set fresh = *reach_of(q, q->lists[i]);
        int node;

        q->until_mono_us = earlier(q->until_mono_us, q->lists[i]->until_mono_us);
        set_subtract(&fresh, &heads.nodes);
        set_or(&heads.nodes, &fresh);
        while ((node = node_set_pop(&fresh)) != -1) {
            heads.key[node] = q->lists[i]->first->key;
            heads.generation[node] = q->generation[node];
        }
    }
    announce_heads(&q->announce, &heads, q->waiting, &q->look);
}

static enum queue_start try_entry(struct queue *q, struct queue_entry *entry,
                                  bool overcommit_only)
{
    struct queue_rights rights;

    q->tries++;
    queue_rights(q, entry, entry->key, reach_of(q, entry->list), &rights);
    rights.overcommit_only = overcommit_only;
    return q->owner->start(entry, &rights);
}

/* The list's first entry did not take the node. */
static void note_declined(struct queue *q, struct queue_list *list, unsigned node)
{
    uint64_t now = loop_now_us(q->loop);

    if (list->declined_mono_us <= now)
        memset(&list->declined, 0, sizeof(list->declined));
    node_set_add(&list->declined, node);
    /* One deadline for all: a later one would put off the others again and again. */
    if (list->declined_mono_us <= now)
        list->declined_mono_us = now + QUEUE_DECLINE_US;
    list->until_mono_us = 0; /* ask reach() again */
    q->dirty = true;
}

/* Gives the node's free places to the least keys of its row. */
static void serve_node(struct queue *q, unsigned node)
{
    uint64_t now = loop_now_us(q->loop);

    while (q->tries < TRIES_PER_TURN) {
        struct queue_list *list;
        struct queue_entry *entry;
        struct queue_head head;
        uint32_t generation;
        bool other;

        if (!announce_open(&q->announce, node, now, &generation))
            return;
        list = first_for(q, node);
        other = announce_any_other(&q->announce) &&
                announce_least_other(&q->announce, node, generation, now, &head);
        if (other && (list == NULL || goes_first(q, &head, list->first->key))) {
            announce_offer(&q->announce, node, head.worker);
            return;
        }
        if (list == NULL)
            return;
        entry = list->first;
        switch (try_entry(q, entry, false)) {
        case QUEUE_STARTED:
            break;
        case QUEUE_LOST:
            return;
        case QUEUE_PLANNED:
        case QUEUE_DECLINED:
            if (entry->list == list) /* else its need is another now */
                note_declined(q, list, node);
            break;
        }
    }
    node_set_add(&q->look, node); /* there is more to do here */
}

/* The first entry, by key, that has not been priced in this round.  The first PRICED entries
 * are in the first PRICED lists. */
static struct queue_entry *next_to_price(const struct queue *q)
{
    struct queue_entry *next = NULL;

    for (size_t i = 0; i < q->lists_count && i < PRICED; i++) {
        struct queue_entry *entry = q->lists[i]->first;

        while (entry != NULL && entry->priced == q->round)
            entry = entry->next;
        if (entry != NULL && (next == NULL || entry->key < next->key))
            next = entry;
    }
    return next;
}

static void price_one(struct queue *q, struct queue_entry *entry)
{
    entry->priced = q->round;
    (void)try_entry(q, entry, true);
}

static void price_in_turn(struct queue *q)
{
    struct queue_list *list = q->lists[q->turn++ % q->lists_count];
    struct queue_entry *entry = list->in_turn == NULL ? list->first : list->in_turn;

    list->in_turn = entry->next;
    if (entry->priced != q->round)
        price_one(q, entry);
}

/* Looks whether some would now have a better plan, or a place beyond the slots. */
static void price(struct queue *q)
{
    struct queue_entry *entry;

    q->price = false;
    q->round++;
    for (unsigned i = 0; i < PRICED && (entry = next_to_price(q)) != NULL; i++)
        price_one(q, entry);
    for (unsigned i = 0; i < PRICED_IN_TURN && q->lists_count != 0; i++)
        price_in_turn(q);
}

static void forget_pending(struct queue *q, struct queue_entry *entry)
{
    if (entry->is_pending)
        TAILQ_REMOVE(&q->pending, entry, in_pending);
    entry->is_pending = false;
}

static void price_pending(struct queue *q)
{
    struct queue_entry *entry;

    for (unsigned i = 0; i < PRICED_PENDING && (entry = TAILQ_FIRST(&q->pending)) != NULL;
         i++) {
        forget_pending(q, entry);
        price_one(q, entry);
    }
}

static void pass(struct queue *q);

static void on_turn_end(struct deferred *deferred)
{
    pass(CONTAINER_OF(deferred, struct queue, turn_end));
}

static void wake(struct queue *q)
{
    if (!q->passing)
        loop_defer(q->loop, &q->turn_end, on_turn_end);
}

static void on_again(struct timer *timer)
{
    wake(CONTAINER_OF(timer, struct queue, again));
}

static void pass(struct queue *q)
{
    q->passing = true;
    q->tries = 0;
    do {
        int node;

        if (q->dirty)
            publish(q);
        while (q->tries < TRIES_PER_TURN && (node = node_set_pop(&q->look)) != -1)
            serve_node(q, (unsigned)node);
    } while (q->tries < TRIES_PER_TURN && (q->dirty || !set_is_empty(&q->look)));
    if (q->price)
        price(q);
    price_pending(q);
    if (q->dirty)
        publish(q);
    q->passing = false;
    if (!set_is_empty(&q->look) || !TAILQ_EMPTY(&q->pending))
        timer_start(q->loop, &q->again, 0, on_again);
}

static void on_timer(struct timer *timer)
{
    struct queue *q = CONTAINER_OF(timer, struct queue, timer);

    if (q->waiting == 0)
        return;
    set_or(&q->look, &q->announce.published);
    q->dirty |= q->until_mono_us <= loop_now_us(q->loop);
    q->price = true;
    wake(q);
    timer_start(q->loop, timer, LOOK_US, on_timer);
}

/* ---- for the owner --------------------------------------------------------------------- */

int queue_add(struct queue *q, struct queue_entry *entry, uint64_t need, uint64_t key)
{
    struct queue_list *list = list_for(q, need);
    bool is_new;

    assert(entry->list == NULL);
    if (list == NULL)
        return DRV_ENOMEM;
    entry->key = key;
    is_new = list->first == NULL;
    if (is_new) {
        link_entry(list, entry);
        put_in(q, list);
    } else if (list->first->key > key) {
        take_out(q, list);
        link_entry(list, entry);
        put_in(q, list);
    } else {
        link_entry(list, entry);
    }
    q->waiting++;
    /* Room may have been made between the last look and now: publishing comes with a look. */
    q->dirty = true;
    wake(q);
    if (!timer_running(&q->timer))
        timer_start(q->loop, &q->timer, LOOK_US, on_timer);
    return 0;
}

void queue_remove(struct queue *q, struct queue_entry *entry)
{
    struct queue_list *list = entry->list;
    bool was_first;

    if (list == NULL)
        return;
    forget_pending(q, entry);
    was_first = list->first == entry;
    if (was_first)
        take_out(q, list);
    unlink_entry(list, entry);
    if (list->first == NULL)
        drop_list(q, list);
    else if (was_first)
        put_in(q, list);
    q->waiting--;
    q->dirty = true;
    wake(q);
}

void queue_move(struct queue *q, struct queue_entry *entry, uint64_t need)
{
    bool was_pending = entry->is_pending;

    if (entry->list == NULL || entry->list->need == need || list_for(q, need) == NULL)
        return;
    queue_remove(q, entry);
    if (queue_add(q, entry, need, entry->key) != 0)
        abort(); /* the list is there */
    if (was_pending)
        queue_price(q, entry);
}

void queue_price(struct queue *q, struct queue_entry *entry)
{
    if (entry->list == NULL || entry->is_pending)
        return;
    entry->is_pending = true;
    TAILQ_INSERT_TAIL(&q->pending, entry, in_pending);
    wake(q);
}

void queue_room(struct queue *q, unsigned node)
{
    if (queue_is_idle(q))
        return;
    node_set_add(&q->look, node);
    wake(q);
}

void queue_woken(struct queue *q)
{
    struct node_set offered = {0};

    announce_take_offers(&q->announce, &offered);
    set_or(&q->look, set_is_empty(&offered) ? &q->announce.published : &offered);
    wake(q);
}

void queue_renew(struct queue *q)
{
    q->renewals++;
    if (q->waiting == 0)
        return;
    q->dirty = true;
    set_or(&q->look, &q->announce.published);
    wake(q);
}

/* Counts the positions in a list anew, if it is time. */
static void count_positions(struct queue *q, struct queue_list *list)
{
    uint64_t now = loop_now_us(q->loop);
    uint32_t before = 0;

    if (now - list->counted_mono_us < (uint64_t)COUNT_AGAIN_US * list->count)
        return;
    list->counted_mono_us = now;
    for (struct queue_entry *entry = list->first; entry != NULL; entry = entry->next)
        entry->position = before++;
}

/* How many of a list go before the key, or before the entry if it stands there. */
static uint32_t count_before(struct queue *q, struct queue_list *list,
                             const struct queue_entry *entry, uint64_t key)
{
    const struct queue_entry *before;
    uint32_t count;

    count_positions(q, list);
    before = entry != NULL && entry->list == list ? entry->prev : find_before(list, key);
    count = before == NULL ? 0 : before->position + 1;
    return count < list->count ? count : list->count;
}

/* The share of the list's nodes that are among `nodes`. */
static double share_of(const struct node_set *reach, const struct node_set *nodes)
{
    int all = 0, common = 0;

    for (unsigned i = 0; i < NODE_SET_WORDS; i++) {
        all += __builtin_popcountll(reach->word[i]);
        common += __builtin_popcountll(reach->word[i] & nodes->word[i]);
    }
    return all == 0 ? 0 : (double)common / all;
}

double queue_ahead(struct queue *q, const struct queue_entry *entry, uint64_t key,
                   const struct node_set *nodes)
{
    double ahead = 0;

    for (size_t i = 0; i < q->lists_count && q->lists[i]->first->key <= key; i++) {
        bool has_plan = q->lists[i]->first->planned;
        double share = has_plan ? 0 : share_of(reach_of(q, q->lists[i]), nodes);

        if (share > 0)
            ahead += share * count_before(q, q->lists[i], entry, key);
    }
    return ahead;
}

void queue_init(struct queue *q, struct loop *loop, struct scoreboard *board, unsigned worker,
                const int *wake_fds, uint64_t hold_us, const struct route_times *times,
                const struct queue_owner *owner)
{
    memset(q, 0, sizeof(*q));
    TAILQ_INIT(&q->pending);
    q->loop = loop;
    q->owner = owner;
    q->announce.board = board;
    q->announce.worker = worker;
    q->announce.wake_fds = wake_fds;
    q->announce.hold_us = hold_us;
    q->announce.times = times;
    q->until_mono_us = UINT64_MAX;
}

void queue_finish(struct queue *q)
{
    assert(q->waiting == 0);
    timer_stop(q->loop, &q->timer);
    timer_stop(q->loop, &q->again);
    loop_undefer(q->loop, &q->turn_end);
    free(q->lists);
    q->lists = NULL;
    q->lists_cap = 0;
}
