/* demand.c - how many requests wait for each node, over all models and workers. */
#include "worker/select/demand.h"

#include <string.h>

#include "policy/queue/admission.h"
#include "shm/facts/nodes.h"
#include "shm/facts/stats.h"
#include "shm/queue/model_queues.h"
#include "shm/queue/queue_heads.h"
#include "worker/upstreams/upstreams.h"

static bool is_fresh(uint64_t measured_mono_us, uint64_t now_mono_us)
{
    return measured_mono_us != 0 && now_mono_us - measured_mono_us < DEMAND_RENEW_US;
}

void demand_measure(struct upstream_model *model, const struct scoreboard *board,
                    uint64_t now_mono_us)
{
    uint32_t known_slots[OP_CLASSES_LEARNED] = {0};

    if (is_fresh(model->measured_mono_us, now_mono_us))
        return;
    model->measured_mono_us = now_mono_us;
    model->slots = 0;
    memset(model->places_per_s, 0, sizeof(model->places_per_s));
    model->serving_count = 0;
    memset(&model->serving, 0, sizeof(model->serving));
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        struct node_hot hot;

        if (!server->node->reachable || !nodes_hot(board, server->node_id, &hot) ||
            (hot.state != NODE_UP && hot.state != NODE_PROBATION) ||
            node_set_has(&model->serving, server->node_id))
            continue;
        node_set_add(&model->serving, server->node_id);
        model->serving_count++;
        model->slots += hot.slots_now;
        for (unsigned c = 0; c < OP_CLASSES_LEARNED; c++) {
            double hold_s =
                stats_read_average(board, server->node_id, stats_hold_of((enum op_class)c));

            if (!(hold_s > 0))
                continue;
            model->places_per_s[c] += hot.slots_now / hold_s;
            known_slots[c] += hot.slots_now;
        }
    }
    /* The others are taken to be like them. */
    for (unsigned c = 0; c < OP_CLASSES_LEARNED; c++)
        if (known_slots[c] != 0)
            model->places_per_s[c] *= (double)model->slots / known_slots[c];
}

/* The nodes of a set; node_ids fit 16 bits. */
static size_t list(uint16_t *nodes, const struct node_set *set)
{
    struct node_set left = *set;
    size_t n = 0;
    int node;

    while ((node = node_set_pop(&left)) != -1)
        nodes[n++] = (uint16_t)node;
    return n;
}

/* Models that came when all rows were taken share one row: each is taken to have an equal part
 * of what waits there. */
static double own_part(const struct upstream_model *model, size_t others_count)
{
    return model->queue_row == MODEL_QUEUES_OTHERS ? 1.0 / (double)others_count : 1.0;
}

void demand_renew(struct demand *demand, const struct scoreboard *board, unsigned worker,
                  struct upstream_model *models, size_t models_count, uint64_t now_mono_us)
{
    size_t others_count = 0;

    if (is_fresh(demand->measured_mono_us, now_mono_us))
        return;
    memset(demand, 0, sizeof(*demand));
    demand->measured_mono_us = now_mono_us;
    for (size_t i = 0; i < models_count; i++)
        others_count += models[i].queue_row == MODEL_QUEUES_OTHERS;
    for (size_t i = 0; i < models_count; i++) {
        struct upstream_model *model = &models[i];
        uint32_t waiting = model_queues_waiting(board, model->queue_row);
        uint16_t nodes[NODE_SET_NODES];
        size_t count;
        double part;

        if (waiting == 0)
            continue;
        demand_measure(model, board, now_mono_us);
        count = list(nodes, &model->serving);
        part = own_part(model, others_count);
        admission_spread(demand->all, nodes, count, waiting * part);
        admission_spread(demand->own, nodes, count,
                         model_queues_of(board, worker, model->queue_row) * part);
    }
}

static double sum_of(const double *load, const struct node_set *set)
{
    uint16_t nodes[NODE_SET_NODES];

    return admission_sum(load, nodes, list(nodes, set));
}

double demand_on(const struct demand *demand, const struct node_set *nodes)
{
    return sum_of(demand->all, nodes);
}

double demand_own(const struct demand *demand, const struct node_set *nodes)
{
    return sum_of(demand->own, nodes);
}

void demand_outranked(const struct upstream_model *model, const struct scoreboard *board,
                      unsigned worker, uint64_t key, uint64_t now_mono_us, struct node_set *out)
{
    memset(out, 0, sizeof(*out));
    for (size_t i = 0; i < model->servers_count; i++) {
        const struct upstream_server *server = &model->servers[i];
        struct queue_head head;

        if (node_set_has(&model->serving, server->node_id) &&
            queue_heads_least(board, server->node_id, server->generation, worker, now_mono_us,
                              &head) &&
            head.key < key)
            node_set_add(out, server->node_id);
    }
}

double demand_part(const struct upstream_model *other, const struct upstream_model *model)
{
    uint32_t common = 0;

    if (other->serving_count == 0)
        return 0;
    for (unsigned i = 0; i < NODE_SET_WORDS; i++)
        common +=
            (uint32_t)__builtin_popcountll(other->serving.word[i] & model->serving.word[i]);
    return (double)common / (double)other->serving_count;
}
