/* fleet.c - this worker's picture of the nodes, and its own connection to each. */
#include "worker/fleet.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/config/config.h"
#include "base/error.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/loop.h"
#include "base/net.h"
#include "proto/rpc/grpc/client.h"
#include "proto/rpc/h2/tls.h"
#include "shm/scoreboard.h"
#include "shm/share/model_queues.h"
#include "shm/stats.h"

#define RENEW_INTERVAL_US (10 * US_PER_MS)

/* The models by number, and their numbers by name. */
struct fleet_models {
    struct fleet_model *at; /* owned, with their `servers` */
    size_t count, cap;
    uint32_t *index; /* owned: 1 + number, where the hash of its id says or after; 0 = nobody */
    size_t index_cap; /* 0 or a power of two, at least twice `cap` */
};

struct fleet {
    struct loop *loop;
    const struct config *config;
    struct scoreboard *board;
    void (*on_change)(void *data);
    void *data;

    struct fleet_node **nodes; /* owned; by slot, NULL = nobody */
    uint32_t nodes_cap;
    size_t nodes_count;
    struct fleet_node *retired; /* owned list: nodes that attempts still hold */

    struct fleet_models models;

    SSL_CTX **node_tls;     /* owned; by index in config->nodes, NULL = cleartext */
    SSL_CTX *registry_tls;  /* owned; for nodes that joined by themselves with TLS */
    uint64_t epoch;         /* of the table, when last renewed; 0 = never */
    uint64_t renew_mono_us; /* when last renewed */
};

/* ---- channels -------------------------------------------------------------------------- */

static void on_channel_state(struct channel *channel, enum channel_state state, const char *why,
                             void *data)
{
    struct fleet_node *node = data;
    struct fleet *fleet = node->fleet;

    node->reachable = state != CHANNEL_BACKOFF;
    switch (state) {
    case CHANNEL_READY:
        log_debug("event=node_connected node=%s", node->info.name);
        stats_note(fleet->board, node->slot, node->info.generation, STATS_CONNECT,
                   channel_connect_us(channel));
        break;
    case CHANNEL_BACKOFF:
        log_warn("event=node_connection_failed node=%s address=%s why=%s", node->info.name,
                 node->info.address, log_quote(why));
        break;
    case CHANNEL_IDLE:
        /* Empty: the connection was given up here, for a new one. */
        if (why[0] != '\0')
            log_warn("event=node_connection_lost node=%s address=%s why=%s", node->info.name,
                     node->info.address, log_quote(why));
        return;
    case CHANNEL_CONNECTING:
        return;
    }
    if (!node->retired)
        fleet->on_change(fleet->data);
}

/* The name a node's certificate must carry: what the config says, or the host it was given. */
static void tls_name(const struct fleet *fleet, const struct node_info *info, char *out,
                     size_t cap)
{
    const struct config_node *node;
    uint16_t port;

    out[0] = '\0';
    if (info->config_index == 0 || info->config_index > fleet->config->nodes_count)
        return;
    node = &fleet->config->nodes[info->config_index - 1];
    if (node->tls.server_name != NULL)
        (void)strlcpy(out, node->tls.server_name, cap);
    else if (net_split(node->address, out, cap, &port, NULL) != 0)
        out[0] = '\0';
}

static void open_channel(struct fleet *fleet, struct fleet_node *node)
{
    struct channel_config cc = {
        .connect_timeout_us = fleet->config->limits.connect_timeout_ms * US_PER_MS,
        .keepalive_idle = true,
        .on_state = on_channel_state,
        .data = node,
    };
    struct error err = {0};
    char name[256];

    if (net_parse(&cc.addr, node->info.address, &err) != 0) {
        log_warn("event=node_address_bad node=%s why=%s", node->info.name, log_quote(err.text));
        return;
    }
    if (node->info.tls) {
        uint32_t index = node->info.config_index;

        cc.tls = index != 0 && index <= fleet->config->nodes_count ? fleet->node_tls[index - 1]
                                                                   : fleet->registry_tls;
        if (cc.tls == NULL) {
            log_warn("event=node_tls_missing node=%s", node->info.name);
            return;
        }
        tls_name(fleet, &node->info, name, sizeof(name));
        cc.tls_name = name[0] == '\0' ? NULL : name;
    }
    if (channel_create(&node->channel, fleet->loop, &cc, &err) != 0) {
        log_warn("event=node_channel_failed node=%s why=%s", node->info.name,
                 log_quote(err.text));
        return;
    }
    node->reachable = true;
    channel_connect(node->channel);
}

/* ---- nodes ----------------------------------------------------------------------------- */

static void free_node(struct fleet_node *node)
{
    channel_destroy(node->channel);
    free(node);
}

static void retire(struct fleet *fleet, uint32_t slot)
{
    struct fleet_node *node = fleet->nodes[slot];

    fleet->nodes[slot] = NULL;
    fleet->nodes_count--;
    node->retired = true;
    if (node->refs == 0) {
        free_node(node);
        return;
    }
    node->next_retired = fleet->retired;
    fleet->retired = node;
}

void fleet_hold(struct fleet_node *node)
{
    node->refs++;
}

void fleet_let_go(struct fleet_node *node)
{
    struct fleet_node **link;

    assert(node->refs > 0);
    if (--node->refs != 0 || !node->retired)
        return;
    for (link = &node->fleet->retired; *link != NULL; link = &(*link)->next_retired) {
        if (*link == node) {
            *link = node->next_retired;
            break;
        }
    }
    free_node(node);
}

/* Same process at the same place? Then its channel and its open calls can stay. */
static bool same_tenant(const struct node_info *a, const struct node_info *b)
{
    return a->generation == b->generation && a->tls == b->tls &&
           strcmp(a->address, b->address) == 0;
}

static struct fleet_node *add_node(struct fleet *fleet, uint32_t slot)
{
    struct fleet_node *node = calloc(1, sizeof(*node));

    if (node == NULL)
        return NULL;
    node->slot = slot;
    node->fleet = fleet;
    fleet->nodes[slot] = node;
    fleet->nodes_count++;
    return node;
}

/* Copies a row that changed.  NULL: not now; the epoch will have moved again by the next turn.
 */
static struct fleet_node *copy_row(struct fleet *fleet, uint32_t slot, struct node_info *fresh)
{
    struct fleet_node *node = fleet->nodes[slot];
    uint32_t version = nodes_version(fleet->board, slot);

    if (!nodes_read(fleet->board, slot, fresh))
        return NULL;
    if (node != NULL && !same_tenant(&node->info, fresh)) {
        retire(fleet, slot);
        node = NULL;
    }
    if (node == NULL)
        node = add_node(fleet, slot);
    if (node != NULL) {
        node->info = *fresh;
        node->version = version;
    }
    return node;
}

/* True: what the models say of it may be wrong now. */
static bool renew_slot(struct fleet *fleet, uint32_t slot, struct node_info *fresh)
{
    enum node_state state = nodes_state(fleet->board, slot);
    struct fleet_node *node = fleet->nodes[slot];
    bool changed = false;

    if (state == NODE_NONE || state == NODE_GONE) {
        if (node == NULL)
            return false;
        retire(fleet, slot);
        return true;
    }
    if (node == NULL || node->version != nodes_version(fleet->board, slot)) {
        changed = true;
        node = copy_row(fleet, slot, fresh);
        if (node == NULL)
            return fleet->nodes[slot] == NULL;
    }
    if (state == NODE_UP || state == NODE_TRIAL) {
        if (node->channel == NULL)
            open_channel(fleet, node);
        else if (node->state != state)
            channel_connect(node->channel); /* it is back: do not sit out the back-off */
    }
    node->state = state;
    return changed;
}

/* ---- models ---------------------------------------------------------------------------- */

static void free_models(struct fleet_models *models)
{
    for (size_t i = 0; i < models->count; i++)
        free(models->at[i].servers);
    free(models->at);
    free(models->index);
    *models = (struct fleet_models){0};
}

/* Where the index has this id, or would have it.  There is an index. */
static uint32_t *index_place(const struct fleet_models *models, const char *id)
{
    size_t at = (size_t)hash_text(id) & (models->index_cap - 1);

    while (models->index[at] != 0 && strcmp(models->at[models->index[at] - 1].id, id) != 0)
        at = (at + 1) & (models->index_cap - 1);
    return &models->index[at];
}

static struct fleet_model *find_model(const struct fleet_models *models, const char *id)
{
    uint32_t number = models->index_cap == 0 ? 0 : *index_place(models, id);

    return number == 0 ? NULL : &models->at[number - 1];
}

/* Room for twice as many models. */
static bool grow_models(struct fleet_models *models)
{
    size_t cap = models->cap == 0 ? 16 : 2 * models->cap;
    struct fleet_model *at = realloc(models->at, cap * sizeof(*at));
    uint32_t *index;

    if (at == NULL)
        return false;
    models->at = at;
    index = calloc(2 * cap, sizeof(*index));
    if (index == NULL)
        return false;
    free(models->index);
    models->index = index;
    models->index_cap = 2 * cap;
    models->cap = cap;
    for (size_t i = 0; i < models->count; i++)
        *index_place(models, at[i].id) = (uint32_t)i + 1;
    return true;
}

static struct fleet_model *model_for(struct fleet_models *models, const char *id)
{
    struct fleet_model *model = find_model(models, id);

    if (model != NULL)
        return model;
    if (models->count == models->cap && !grow_models(models))
        return NULL;
    model = &models->at[models->count];
    memset(model, 0, sizeof(*model));
    (void)strlcpy(model->id, id, sizeof(model->id));
    model->bytes_per_token = FLEET_BYTES_PER_TOKEN;
    *index_place(models, id) = (uint32_t)++models->count;
    return model;
}

/* Is there room for one more?  It doubles: 0, 1, 2, 4 ... servers fill what was asked for. */
static bool has_room(const struct fleet_model *model)
{
    size_t n = model->servers_count;

    return n != 0 && (n & (n - 1)) != 0;
}

static void add_server(struct fleet_model *model, struct fleet_node *node,
                       const struct node_model *served)
{
    size_t n = model->servers_count;

    if (!has_room(model)) {
        struct fleet_server *grown =
            realloc(model->servers, (n == 0 ? 1 : 2 * n) * sizeof(*grown));

        if (grown == NULL)
            return;
        model->servers = grown;
    }
    model->servers[model->servers_count++] = (struct fleet_server){
        .node = node,
        .state = served->state,
        .load_ms = served->load_ms,
        .operations = served->operations,
        .slot = node->slot,
        .generation = node->info.generation,
        .slots = node->info.slots,
        .queue = node->info.queue,
        .weight = node->info.weight == 0 ? 1 : node->info.weight,
        .max_request_bytes = node->info.max_request_bytes,
        .prefill_tokens_per_s = node->info.prefill_tokens_per_s,
    };
    model->operations |= served->operations;
}

static void renew_models(struct fleet *fleet)
{
    struct fleet_models old = fleet->models;

    fleet->models = (struct fleet_models){0};
    for (uint32_t slot = 0; slot < fleet->nodes_cap; slot++) {
        struct fleet_node *node = fleet->nodes[slot];

        for (uint32_t m = 0; node != NULL && m < node->info.models_count; m++) {
            struct fleet_model *model = model_for(&fleet->models, node->info.models[m].id);

            if (model != NULL)
                add_server(model, node, &node->info.models[m]);
        }
    }
    for (size_t i = 0; i < fleet->models.count; i++) {
        struct fleet_model *model = &fleet->models.at[i];

        model->queue_row = model_queues_row(fleet->board, hash_text(model->id));
    }
    for (size_t i = 0; i < old.count; i++) {
        struct fleet_model *kept = fleet_find(fleet, old.at[i].id);

        if (kept != NULL) {
            kept->cursor = old.at[i].cursor;
            kept->bytes_per_token = old.at[i].bytes_per_token;
            kept->return_mono_us = old.at[i].return_mono_us;
        }
    }
    free_models(&old);
}

void fleet_renew(struct fleet *fleet)
{
    uint64_t epoch = nodes_epoch(fleet->board);
    uint64_t now = loop_now_us(fleet->loop);
    bool changed = false;
    struct node_info *fresh;

    if (epoch == fleet->epoch || now - fleet->renew_mono_us < RENEW_INTERVAL_US)
        return;
    fresh = malloc(sizeof(*fresh));
    if (fresh == NULL)
        return;
    fleet->epoch = epoch;
    fleet->renew_mono_us = now;
    for (uint32_t slot = 0; slot < fleet->nodes_cap; slot++)
        changed = renew_slot(fleet, slot, fresh) || changed;
    free(fresh);
    if (changed)
        renew_models(fleet);
    fleet->on_change(fleet->data);
}

/* ---- queries --------------------------------------------------------------------------- */

struct fleet_model *fleet_find(struct fleet *fleet, const char *id)
{
    return find_model(&fleet->models, id);
}

struct fleet_model *fleet_all_models(struct fleet *fleet, size_t *count)
{
    *count = fleet->models.count;
    return fleet->models.at;
}

struct fleet_node *fleet_at(struct fleet *fleet, unsigned slot, uint32_t generation)
{
    struct fleet_node *node = slot < fleet->nodes_cap ? fleet->nodes[slot] : NULL;

    return node != NULL && node->info.generation == generation ? node : NULL;
}

size_t fleet_size(const struct fleet *fleet)
{
    return fleet->nodes_count;
}

bool fleet_any_up(const struct fleet *fleet)
{
    for (uint32_t slot = 0; slot < fleet->nodes_cap; slot++) {
        enum node_state state = nodes_state(fleet->board, slot);

        if (fleet->nodes[slot] != NULL && (state == NODE_UP || state == NODE_TRIAL))
            return true;
    }
    return false;
}

bool fleet_usable(const struct fleet_node *node)
{
    enum node_state state = nodes_state(node->fleet->board, node->slot);

    return node->reachable && (state == NODE_UP || state == NODE_TRIAL);
}

/* ---- life ------------------------------------------------------------------------------ */

static int make_tls(struct fleet *fleet, struct error *err)
{
    const struct config *config = fleet->config;
    const struct config_tls *join = &config->registry.listen.tls;
    int rc;

    fleet->node_tls = calloc(config->nodes_count + 1, sizeof(SSL_CTX *));
    if (fleet->node_tls == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    for (unsigned i = 0; i < config->nodes_count; i++) {
        if (!config->nodes[i].tls.enabled)
            continue;
        rc = tls_client_context(&fleet->node_tls[i], &config->nodes[i].tls, err);
        if (rc != 0)
            return error_wrap(err, rc, "nodes[%u].tls", i);
    }
    if (!join->enabled && join->ca == NULL)
        return 0;
    rc = tls_client_context(&fleet->registry_tls, join, err);
    return rc == 0 ? 0 : error_wrap(err, rc, "registry.tls");
}

int fleet_create(struct fleet **out, struct loop *loop, const struct config *config,
                 struct scoreboard *board, void (*on_change)(void *data), void *data,
                 struct error *err)
{
    struct fleet *fleet = calloc(1, sizeof(*fleet));
    int rc;

    *out = NULL;
    if (fleet == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    fleet->loop = loop;
    fleet->config = config;
    fleet->board = board;
    fleet->on_change = on_change;
    fleet->data = data;
    fleet->nodes_cap = scoreboard_max_nodes(board);
    fleet->nodes = calloc(fleet->nodes_cap, sizeof(*fleet->nodes));
    rc = fleet->nodes == NULL ? error_set(err, DRV_ENOMEM, "out of memory")
                              : make_tls(fleet, err);
    if (rc != 0) {
        fleet_destroy(fleet);
        return rc;
    }
    *out = fleet;
    return 0;
}

void fleet_destroy(struct fleet *fleet)
{
    if (fleet == NULL)
        return;
    for (uint32_t slot = 0; fleet->nodes != NULL && slot < fleet->nodes_cap; slot++) {
        if (fleet->nodes[slot] != NULL)
            free_node(fleet->nodes[slot]);
    }
    while (fleet->retired != NULL) {
        struct fleet_node *node = fleet->retired;

        fleet->retired = node->next_retired;
        free_node(node);
    }
    free_models(&fleet->models);
    for (unsigned i = 0; fleet->node_tls != NULL && i < fleet->config->nodes_count; i++)
        SSL_CTX_free(fleet->node_tls[i]);
    free(fleet->node_tls);
    SSL_CTX_free(fleet->registry_tls);
    free(fleet->nodes);
    free(fleet);
}
