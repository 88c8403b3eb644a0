/*
 * config_load.c - from a file to a configuration that has been checked.
 *
 * The way of a file: read it (here), walk it into a tree with positions (config_doc.c), put in
 * the environment's values (config_expand.c), check keys, types and ranges against the schema
 * (config_schema.c), make paths absolute (config_expand.c), let libcyaml fill the structs
 * (config_schema.c), add the defaults that are not numbers (here), check what the values mean
 * (config_check.c).
 */
#include "base/config/config_load.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_check.h"
#include "base/config/config_doc.h"
#include "base/config/config_expand.h"
#include "base/config/config_schema.h"
#include "base/error.h"
#include "base/secure/origins.h"
#include "base/secure/secret.h"
#include "base/text/buf.h"

#define API_LISTEN   "127.0.0.1:8080"
#define ADMIN_LISTEN "127.0.0.1:8081"
#define WORKERS_MAX  8 /* by default; more processors than this wait for tokens anyway */

/* The processors this process may use, not those of the machine. */
static uint32_t default_workers(void)
{
    cpu_set_t set;
    int n;

    if (sched_getaffinity(0, sizeof(set), &set) == -1)
        return 1;
    n = CPU_COUNT(&set);
    return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (uint32_t)n;
}

static int default_text(char **field, const char *text, struct error *err)
{
    if (*field != NULL)
        return 0;
    *field = strdup(text);
    return *field == NULL ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
}

/* An empty list is a list: no page at all. */
static int default_origins(struct config_api *api, const struct doc *doc, struct error *err)
{
    if (doc_find(doc, "api.cors_origins") != NULL)
        return 0;
    api->cors_origins = calloc(1, sizeof(*api->cors_origins));
    if (api->cors_origins == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    api->cors_origins_count = 1;
    return default_text(&api->cors_origins[0], ORIGINS_LOOPBACK, err);
}

/* A model has what the whole has, where it says nothing. */
static void add_model_defaults(struct config *config, const struct doc *doc)
{
    const struct doc_item *models = doc_find(doc, "models");

    for (unsigned i = 0; i < config->models_count; i++) {
        struct config_model *model = &config->models[i];
        const struct doc_item *item = doc_at(models, i);
        const struct doc_item *hedge = doc_get(item, "hedge");
        const struct doc_item *queue = doc_get(item, "queue");

        if (doc_get(item, "policy") == NULL)
            model->policy = config->policy;
        if (doc_get(item, "priority") == NULL)
            model->priority = config->priority;
        if (doc_get(hedge, "enabled") == NULL)
            model->hedge.enabled = hedge != NULL || config->hedge.enabled;
        if (doc_get(hedge, "budget_pct") == NULL)
            model->hedge.budget_pct = config->hedge.budget_pct;
        if (doc_get(hedge, "floor_ms") == NULL)
            model->hedge.floor_ms = config->hedge.floor_ms;
        if (doc_get(hedge, "min_samples") == NULL)
            model->hedge.min_samples = config->hedge.min_samples;
        if (doc_get(queue, "max_waiting") == NULL)
            model->queue.max_waiting = config->queue.max_waiting;
        if (doc_get(queue, "max_wait_ms") == NULL)
            model->queue.max_wait_ms = config->queue.max_wait_ms;
        if (doc_get(queue, "comment_after_ms") == NULL)
            model->queue.comment_after_ms = config->queue.comment_after_ms;
    }
}

static int add_defaults(struct config *config, const struct doc *doc, struct error *err)
{
    char dir[256];
    int rc;

    if (config->workers == 0)
        config->workers = default_workers();
    if (doc_find(doc, "policy") == NULL)
        config->policy = POLICY_FASTEST;
    if (doc_find(doc, "hedge") != NULL && doc_find(doc, "hedge.enabled") == NULL)
        config->hedge.enabled = true;
    if (doc_find(doc, "log.level") == NULL)
        config->log_level = LOG_LEVEL_INFO;
    if (doc_find(doc, "limits.max_body_bytes") == NULL &&
        config->limits.max_body_bytes > config->limits.max_body_total_bytes)
        config->limits.max_body_bytes = config->limits.max_body_total_bytes;
    add_model_defaults(config, doc);
    config_default_runtime_dir(dir, sizeof(dir));
    rc = default_text(&config->runtime_dir, dir, err);
    config_default_state_dir(dir, sizeof(dir));
    if (rc == 0)
        rc = default_text(&config->state_dir, dir, err);
    if (rc == 0)
        rc = default_text(&config->api.address, API_LISTEN, err);
    if (rc == 0)
        rc = default_text(&config->admin.address, ADMIN_LISTEN, err);
    if (rc == 0)
        rc = default_origins(&config->api, doc, err);
    return rc;
}

int config_parse(struct config **out, const char *text, size_t n, const char *name,
                 struct error *err)
{
    struct config *config = NULL;
    struct doc *doc;
    int rc;

    *out = NULL;
    rc = doc_parse(&doc, text, n, name, err);
    if (rc != 0)
        return rc;
    rc = config_expand_variables(doc, err);
    if (rc == 0)
        rc = config_schema_check(doc, err);
    if (rc == 0)
        rc = config_expand_places(doc, err);
    if (rc == 0)
        rc = config_schema_load(&config, doc, err);
    if (rc == 0)
        rc = add_defaults(config, doc, err);
    if (rc == 0)
        rc = config_check(config, doc, err);
    doc_destroy(doc);
    if (rc != 0) {
        config_destroy(config);
        return rc;
    }
    *out = config;
    return 0;
}

void config_place(const char *text, size_t n, const char *key, uint32_t *line, uint32_t *column)
{
    const struct doc_item *item = NULL;
    struct error ignored;
    struct doc *doc = NULL;

    if (doc_parse(&doc, text, n, "", &ignored) == 0)
        item = doc_near(doc, key);
    *line = item == NULL ? 1 : item->line;
    *column = item == NULL ? 1 : item->column;
    doc_destroy(doc);
}

/* Reads one byte more than a config may have, so that doc_parse() sees a longer file. */
static int read_all(struct buf *text, int fd, const char *path, struct error *err)
{
    uint8_t *to;
    ssize_t n;

    while (buf_size(text) <= DOC_MAX_BYTES) {
        to = buf_reserve(text, 16384);
        if (to == NULL)
            return error_set(err, DRV_ENOMEM, "out of memory");
        n = read(fd, to, 16384);
        if (n == -1 && errno == EINTR)
            continue;
        if (n == -1)
            return error_sys(err, path);
        if (n == 0)
            return 0;
        text->len += (size_t)n;
    }
    return 0;
}

int config_read(struct buf *text, const char *path, struct error *err)
{
    int fd, rc;

    fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd == -1) {
        if (errno == ENOENT)
            return error_set(err, DRV_ENOENT, "%s: %s", path, strerror(errno));
        return error_sys(err, path);
    }
    rc = read_all(text, fd, path, err);
    (void)close(fd);
    return rc;
}

int config_load(struct config **out, const char *path, struct error *err)
{
    struct buf text = BUF_INIT;
    int rc;

    *out = NULL;
    rc = config_read(&text, path, err);
    if (rc == 0)
        rc = config_parse(out, (const char *)text.data, buf_size(&text), path, err);
    buf_finish(&text);
    return rc;
}

void config_destroy(struct config *config)
{
    if (config == NULL)
        return;
    for (size_t i = 0; i < ARRAY_LEN(config->tokens); i++) {
        secret_free(config->tokens[i]);
        config->tokens[i] = NULL;
    }
    api_keys_finish(&config->api.keys);
    config_schema_free(config);
}
