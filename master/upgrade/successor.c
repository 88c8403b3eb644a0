/* successor.c - the new master's side of an upgrade. */
#include "master/upgrade/successor.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/log.h"
#include "base/text/buf.h"
#include "master/runtime.h"
#include "master/supervise.h"
#include "shm/facts/nodes.h"
#include "shm/scoreboard.h"

/* The nodes that are there then must do.  The master before us waits 10 s for everything. */
#define GATHER_US  (6 * US_PER_S)
#define LATE_US    (60 * US_PER_S) /* a node that has not come by then is forgotten */
#define MAX_TEXT   (1u << 20)
#define READ_BYTES 65536

static int read_text(struct handover *out, int fd, struct error *err)
{
    struct buf text = BUF_INIT;
    ssize_t n = 1;
    int rc;

    while (n > 0 && buf_size(&text) < MAX_TEXT) {
        uint8_t *to = buf_reserve(&text, READ_BYTES);

        n = to == NULL ? -1 : pread(fd, to, READ_BYTES, (off_t)buf_size(&text));
        if (n > 0)
            text.len += (size_t)n;
    }
    if (n == -1)
        rc = error_sys(err, "cannot read the handover");
    else
        rc = handover_decode(out, (const char *)buf_head(&text), buf_size(&text), err);
    buf_finish(&text);
    return rc;
}

int successor_init(struct successor *succ, int channel, int text_fd, struct error *err)
{
    int rc = 0;

    *succ = (struct successor){.channel = channel};
    if (channel != -1 && text_fd != -1) {
        succ->phase = SUCCESSOR_STARTING;
        rc = read_text(&succ->from, text_fd, err);
    }
    if (text_fd != -1)
        (void)close(text_fd);
    return rc;
}

void successor_finish(struct successor *succ)
{
    if (succ->channel != -1)
        (void)close(succ->channel);
    succ->channel = -1;
    handover_finish(&succ->from);
}

bool successor_is(const struct successor *succ)
{
    return succ->phase != SUCCESSOR_NONE;
}

bool successor_busy(const struct successor *succ)
{
    return succ->phase != SUCCESSOR_NONE && succ->phase != SUCCESSOR_SERVING;
}

bool successor_alone(const struct successor *succ)
{
    return succ->channel == -1;
}

void successor_begin(struct successor *succ, struct runtime *rt, struct supervisor *sup,
                     const struct successor_ops *ops, void *data, unsigned workers,
                     uint64_t now_mono_us)
{
    succ->rt = rt;
    succ->sup = sup;
    succ->ops = ops;
    succ->data = data;
    succ->workers = succ->from.scaled ? succ->from.workers : workers;
    succ->since_mono_us = now_mono_us;
    supervise_hold_workers(sup, true);
    log_info("event=taking_over nodes=%zu workers=%u", succ->from.nodes_count, succ->workers);
}

/* Does the master before us know that we are ready? */
static bool is_ready(const struct successor *succ)
{
    return succ->phase == SUCCESSOR_WAITING || succ->phase == SUCCESSOR_SERVING;
}

bool successor_holds(const struct successor *succ)
{
    return succ->phase == SUCCESSOR_STARTING || succ->phase == SUCCESSOR_GATHERING;
}

void successor_fail(struct successor *succ, const char *why)
{
    if (!successor_busy(succ) || is_ready(succ) || succ->channel == -1)
        return;
    handover_say(succ->channel, "failed", why);
    (void)close(succ->channel);
    succ->channel = -1;
}

void successor_pass_order(struct successor *succ, enum child_order order)
{
    if (is_ready(succ))
        handover_say(succ->channel, child_order_name(order), "");
    else
        successor_fail(succ, "it was ordered to end");
}

static void enter(struct successor *succ, enum successor_phase phase, uint64_t now_mono_us)
{
    succ->phase = phase;
    succ->since_mono_us = now_mono_us;
}

/* Is this node as it was with the master before us? */
static bool settled(struct successor *succ, const struct handover_node *node)
{
    int node_id = nodes_find(succ->rt->board, node->name);

    if (node_id == -1)
        return false;
    if (node->state == HANDOVER_UP)
        return nodes_state(succ->rt->board, (unsigned)node_id) == NODE_UP;
    return succ->ops->drain(succ->data, node->name);
}

/* Looks at the nodes that are not yet as they were; returns how many are UP. */
static unsigned gather(struct successor *succ, unsigned *wanted, bool *all)
{
    unsigned up = 0;

    *wanted = 0;
    *all = true;
    for (size_t i = 0; i < succ->from.nodes_count; i++) {
        struct handover_node *node = &succ->from.nodes[i];

        if (!node->done)
            node->done = settled(succ, node);
        *all = *all && node->done;
        *wanted += node->state == HANDOVER_UP;
        up += node->state == HANDOVER_UP && node->done;
    }
    return up;
}

/* Does any node serve, be it one that the configuration names anew? */
static bool any_up(const struct successor *succ)
{
    const struct scoreboard *board = succ->rt->board;
    unsigned n = scoreboard_max_nodes(board);

    for (unsigned i = 0; i < n; i++) {
        if (nodes_state(board, i) == NODE_UP)
            return true;
    }
    return false;
}

static void step_gathering(struct successor *succ, uint64_t now_mono_us)
{
    bool late = now_mono_us - succ->since_mono_us >= GATHER_US, all;
    unsigned wanted, up;
    char text[40];

    up = gather(succ, &wanted, &all);
    if (up != succ->reported) {
        (void)snprintf(text, sizeof(text), "%u %u", up, wanted);
        handover_say(succ->channel, "nodes", text);
        succ->reported = up;
    }
    /* With none we would turn every request away, and the master before us would not; if it is
     * gone, an answer is better than none. */
    if (!all && !(late && (wanted == 0 || any_up(succ) || successor_alone(succ))))
        return;
    if (!all)
        log_warn("event=nodes_missing up=%u of=%u", up, wanted);
    supervise_hold_workers(succ->sup, false);
    supervise_set_workers(succ->sup, succ->workers);
    enter(succ, SUCCESSOR_FILLING, now_mono_us);
}

static int take_over(struct successor *succ, uint64_t now_mono_us, struct error *err)
{
    int rc = runtime_publish(succ->rt, err);

    if (rc == 0)
        rc = succ->ops->publish(succ->data, err);
    if (rc != 0)
        return rc;
    supervise_order_health(succ->sup, HEALTH_OPEN_ADMIN);
    handover_say(succ->channel, "ready", "");
    enter(succ, SUCCESSOR_WAITING, now_mono_us);
    return 0;
}

static void serve(struct successor *succ, uint64_t now_mono_us)
{
    log_info("event=took_over nodes=%u", succ->reported);
    enter(succ, SUCCESSOR_SERVING, now_mono_us);
}

static void take(struct successor *succ, const char *message, uint64_t now_mono_us)
{
    unsigned workers;

    if (strcmp(message, "go") == 0 && succ->phase == SUCCESSOR_WAITING) {
        serve(succ, now_mono_us);
    } else if (strcmp(message, "reload") == 0) {
        succ->reload = true;
    } else if (strcmp(message, "reopen") == 0) {
        succ->reopen = true;
    } else if (strncmp(message, "workers ", 8) == 0 &&
               handover_workers(&workers, message + 8)) {
        log_info("event=scale workers=%u by=predecessor", workers);
        if (successor_holds(succ))
            succ->workers = workers;
        else
            supervise_set_workers(succ->sup, workers);
    }
}

/* Reads the messages of the master before us, and notices its end. */
static void hear(struct successor *succ, uint64_t now_mono_us)
{
    char message[HANDOVER_MESSAGE_BYTES];
    int rc;

    while (succ->channel != -1 && (rc = handover_hear(succ->channel, message)) != 0) {
        if (rc == -1) {
            log_info("event=predecessor_ended");
            (void)close(succ->channel);
            succ->channel = -1;
        }
        if (rc == 1)
            take(succ, message, now_mono_us);
    }
    /* If it was killed half-way, we go on alone. */
    if (succ->phase == SUCCESSOR_WAITING && succ->channel == -1)
        serve(succ, now_mono_us);
}

int successor_step(struct successor *succ, uint64_t now_mono_us, struct error *err)
{
    unsigned wanted;
    bool all;
    int rc = 0;

    hear(succ, now_mono_us);
    switch (succ->phase) {
    case SUCCESSOR_NONE:
    case SUCCESSOR_WAITING:
        break;
    case SUCCESSOR_STARTING:
        if (supervise_health_serves(succ->sup)) {
            handover_say(succ->channel, "started", "");
            enter(succ, SUCCESSOR_GATHERING, now_mono_us);
        }
        break;
    case SUCCESSOR_GATHERING:
        step_gathering(succ, now_mono_us);
        break;
    case SUCCESSOR_FILLING:
        if (succ->sup->proven)
            rc = take_over(succ, now_mono_us, err);
        break;
    case SUCCESSOR_SERVING:
        /* A drained node may come late. */
        (void)gather(succ, &wanted, &all);
        if (all || now_mono_us - succ->since_mono_us >= LATE_US)
            handover_finish(&succ->from);
        break;
    }
    return rc;
}
