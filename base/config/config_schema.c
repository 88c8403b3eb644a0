/* config_schema.c - from the tree of a configuration file to struct config. */
#include "base/config/config_schema.h"

#include <cyaml/cyaml.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "base/config/config_doc.h"
#include "base/error.h"
#include "base/text/buf.h"

#define TEXT_MAX DOC_TEXT_MAX /* of any string; config_check.c knows tighter limits */

static const cyaml_strval_t policies[] = {
    {"fastest", POLICY_FASTEST},         {"least_conn", POLICY_LEAST_CONN},
    {"round_robin", POLICY_ROUND_ROBIN}, {"random2", POLICY_RANDOM2},
    {"prefix_hash", POLICY_PREFIX_HASH},
};

static const cyaml_strval_t priorities[] = {
    {"default", REQUEST_PRIORITY_DEFAULT},
    {"interactive", REQUEST_PRIORITY_INTERACTIVE},
    {"bulk", REQUEST_PRIORITY_BULK},
};

static const cyaml_strval_t levels[] = {
    {"error", LOG_LEVEL_ERROR},
    {"warn", LOG_LEVEL_WARN},
    {"info", LOG_LEVEL_INFO},
    {"debug", LOG_LEVEL_DEBUG},
};

static const cyaml_strval_t sandbox_modes[] = {
    {"on", SANDBOX_ON},
    {"off", SANDBOX_OFF},
    {"log", SANDBOX_LOG},
};

#define OPTIONAL CYAML_FLAG_OPTIONAL
#define REQUIRED CYAML_FLAG_DEFAULT
#define TEXT(key, flags, type, member) \
    CYAML_FIELD_STRING_PTR(key, (flags) | CYAML_FLAG_POINTER, type, member, 1, TEXT_MAX)
#define NUMBER(key, type, member) CYAML_FIELD_UINT(key, OPTIONAL, type, member)
#define BLOCK(key, type, member, fields) \
    CYAML_FIELD_MAPPING(key, OPTIONAL, type, member, fields)

static const cyaml_schema_field_t server_tls_fields[] = {
    CYAML_FIELD_BOOL("enabled", OPTIONAL, struct config_tls, enabled),
    TEXT("cert", OPTIONAL, struct config_tls, cert),
    TEXT("key", OPTIONAL, struct config_tls, key),
    TEXT("ca", OPTIONAL, struct config_tls, ca),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t client_tls_fields[] = {
    CYAML_FIELD_BOOL("enabled", OPTIONAL, struct config_tls, enabled),
    TEXT("cert", OPTIONAL, struct config_tls, cert),
    TEXT("key", OPTIONAL, struct config_tls, key),
    TEXT("ca", OPTIONAL, struct config_tls, ca),
    TEXT("server_name", OPTIONAL, struct config_tls, server_name),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t text_entry = {
    CYAML_VALUE_STRING(CYAML_FLAG_POINTER, char, 1, TEXT_MAX),
};

static const cyaml_schema_field_t api_fields[] = {
    TEXT("listen", OPTIONAL, struct config_api, address),
    BLOCK("tls", struct config_api, tls, server_tls_fields),
    TEXT("keys_file", OPTIONAL, struct config_api, keys_file),
    CYAML_FIELD_SEQUENCE_COUNT("cors_origins", OPTIONAL | CYAML_FLAG_POINTER, struct config_api,
                               cors_origins, cors_origins_count, &text_entry, 0,
                               CYAML_UNLIMITED),
    CYAML_FIELD_SEQUENCE_COUNT("trusted_proxies", OPTIONAL | CYAML_FLAG_POINTER,
                               struct config_api, trusted_proxies, trusted_proxies_count,
                               &text_entry, 0, CYAML_UNLIMITED),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t admin_fields[] = {
    TEXT("listen", OPTIONAL, struct config_admin, address),
    BLOCK("tls", struct config_admin, tls, server_tls_fields),
    CYAML_FIELD_BOOL("allow_remote", OPTIONAL, struct config_admin, allow_remote),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t registry_fields[] = {
    TEXT("listen", OPTIONAL, struct config_registry, listen.address),
    BLOCK("tls", struct config_registry, listen.tls, server_tls_fields),
    TEXT("token_file", OPTIONAL, struct config_registry, token_file),
    NUMBER("lease_ms", struct config_registry, lease_ms),
    NUMBER("heartbeat_ms", struct config_registry, heartbeat_ms),
    CYAML_FIELD_END,
};

/* The members of `log` lie in struct config itself. */
static const cyaml_schema_field_t log_fields[] = {
    CYAML_FIELD_ENUM("level", OPTIONAL | CYAML_FLAG_STRICT, struct config, log_level, levels,
                     ARRAY_LEN(levels)),
    TEXT("file", OPTIONAL, struct config, log_file),
    TEXT("access", OPTIONAL, struct config, access_log),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t limits_fields[] = {
    NUMBER("max_connections", struct config_limits, max_connections),
    NUMBER("max_per_client", struct config_limits, max_per_client),
    NUMBER("max_nodes", struct config_limits, max_nodes),
    NUMBER("max_body_bytes", struct config_limits, max_body_bytes),
    NUMBER("max_answer_bytes", struct config_limits, max_answer_bytes),
    NUMBER("max_body_total_bytes", struct config_limits, max_body_total_bytes),
    NUMBER("worker_memory_bytes", struct config_limits, worker_memory_bytes),
    NUMBER("request_timeout_ms", struct config_limits, request_timeout_ms),
    NUMBER("header_timeout_ms", struct config_limits, header_timeout_ms),
    NUMBER("idle_timeout_ms", struct config_limits, idle_timeout_ms),
    NUMBER("write_stall_ms", struct config_limits, write_stall_ms),
    NUMBER("load_ms", struct config_limits, load_ms),
    NUMBER("first_token_ms", struct config_limits, first_token_ms),
    NUMBER("idle_token_ms", struct config_limits, idle_token_ms),
    NUMBER("connect_timeout_ms", struct config_limits, connect_timeout_ms),
    NUMBER("max_attempts", struct config_limits, max_attempts),
    NUMBER("max_resumes", struct config_limits, max_resumes),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t queue_fields[] = {
    NUMBER("max_waiting", struct config_queue, max_waiting),
    NUMBER("max_wait_ms", struct config_queue, max_wait_ms),
    NUMBER("comment_after_ms", struct config_queue, comment_after_ms),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t prefix_fields[] = {
    NUMBER("entries", struct config_prefix, entries),
    NUMBER("window_bytes", struct config_prefix, window_bytes),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t hedge_fields[] = {
    CYAML_FIELD_BOOL("enabled", OPTIONAL, struct config_hedge, enabled),
    NUMBER("budget_pct", struct config_hedge, budget_pct),
    NUMBER("floor_ms", struct config_hedge, floor_ms),
    NUMBER("min_samples", struct config_hedge, min_samples),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t health_fields[] = {
    NUMBER("interval_ms", struct config_health, interval_ms),
    NUMBER("timeout_ms", struct config_health, timeout_ms),
    NUMBER("rise", struct config_health, rise),
    NUMBER("fall", struct config_health, fall),
    NUMBER("eject_failures", struct config_health, eject_failures),
    NUMBER("eject_success_pct", struct config_health, eject_success_pct),
    NUMBER("eject_min_requests", struct config_health, eject_min_requests),
    NUMBER("eject_window_ms", struct config_health, eject_window_ms),
    NUMBER("eject_backoff_ms", struct config_health, eject_backoff_ms),
    NUMBER("eject_backoff_max_ms", struct config_health, eject_backoff_max_ms),
    NUMBER("resolve_ms", struct config_health, resolve_ms),
    NUMBER("flap_wait_ms", struct config_health, flap_wait_ms),
    NUMBER("ramp_ms", struct config_health, ramp_ms),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t testing_fields[] = {
    NUMBER("speedup", struct config_testing, speedup),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t node_fields[] = {
    TEXT("name", REQUIRED, struct config_node, name),
    TEXT("address", REQUIRED, struct config_node, address),
    NUMBER("slots", struct config_node, slots),
    NUMBER("weight", struct config_node, weight),
    CYAML_FIELD_INT("queue", OPTIONAL, struct config_node, queue),
    BLOCK("tls", struct config_node, tls, client_tls_fields),
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t alias_fields[] = {
    TEXT("name", REQUIRED, struct config_alias, name),
    CYAML_FIELD_IGNORE("model", CYAML_FLAG_DEFAULT), /* a text or a list, see load_aliases() */
    CYAML_FIELD_END,
};

static const cyaml_schema_field_t model_fields[] = {
    TEXT("name", REQUIRED, struct config_model, name),
    CYAML_FIELD_ENUM("policy", OPTIONAL | CYAML_FLAG_STRICT, struct config_model, policy,
                     policies, ARRAY_LEN(policies)),
    CYAML_FIELD_ENUM("priority", OPTIONAL | CYAML_FLAG_STRICT, struct config_model, priority,
                     priorities, ARRAY_LEN(priorities)),
    BLOCK("hedge", struct config_model, hedge, hedge_fields),
    BLOCK("queue", struct config_model, queue, queue_fields),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t node_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_node, node_fields),
};
static const cyaml_schema_value_t alias_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_alias, alias_fields),
};
static const cyaml_schema_value_t alias_list = {
    CYAML_VALUE_SEQUENCE(CYAML_FLAG_POINTER, struct config_alias, &alias_entry, 0,
                         CYAML_UNLIMITED),
};
static const cyaml_schema_value_t model_entry = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_DEFAULT, struct config_model, model_fields),
};

static const cyaml_schema_field_t top_fields[] = {
    NUMBER("workers", struct config, workers),
    BLOCK("api", struct config, api, api_fields),
    BLOCK("admin", struct config, admin, admin_fields),
    BLOCK("registry", struct config, registry, registry_fields),
    TEXT("runtime_dir", OPTIONAL, struct config, runtime_dir),
    TEXT("state_dir", OPTIONAL, struct config, state_dir),
    {
        .key = "log",
        .data_offset = 0,
        .value = {CYAML_VALUE_MAPPING(OPTIONAL, struct config, log_fields)},
    },
    CYAML_FIELD_ENUM("policy", OPTIONAL | CYAML_FLAG_STRICT, struct config, policy, policies,
                     ARRAY_LEN(policies)),
    CYAML_FIELD_ENUM("priority", OPTIONAL | CYAML_FLAG_STRICT, struct config, priority,
                     priorities, ARRAY_LEN(priorities)),
    NUMBER("hold_ms", struct config, hold_ms),
    NUMBER("shutdown_delay_ms", struct config, shutdown_delay_ms),
    NUMBER("shutdown_grace_ms", struct config, shutdown_grace_ms),
    CYAML_FIELD_BOOL("allow_half_close", OPTIONAL, struct config, allow_half_close),
    TEXT("user", OPTIONAL, struct config, user),
    TEXT("group", OPTIONAL, struct config, group),
    CYAML_FIELD_BOOL("core_dumps", OPTIONAL, struct config, core_dumps),
    CYAML_FIELD_ENUM("seccomp", OPTIONAL | CYAML_FLAG_STRICT, struct config, seccomp,
                     sandbox_modes, ARRAY_LEN(sandbox_modes)),
    TEXT("node_token_file", OPTIONAL, struct config, node_token_file),
    BLOCK("limits", struct config, limits, limits_fields),
    BLOCK("queue", struct config, queue, queue_fields),
    BLOCK("prefix", struct config, prefix, prefix_fields),
    BLOCK("hedge", struct config, hedge, hedge_fields),
    BLOCK("health", struct config, health, health_fields),
    BLOCK("testing", struct config, testing, testing_fields),
    CYAML_FIELD_SEQUENCE_COUNT("nodes", OPTIONAL | CYAML_FLAG_POINTER, struct config, nodes,
                               nodes_count, &node_entry, 0, CYAML_UNLIMITED),
    CYAML_FIELD_IGNORE("aliases", OPTIONAL), /* see load_aliases() */
    CYAML_FIELD_SEQUENCE_COUNT("models", OPTIONAL | CYAML_FLAG_POINTER, struct config, models,
                               models_count, &model_entry, 0, CYAML_UNLIMITED),
    CYAML_FIELD_END,
};

static const cyaml_schema_value_t top_schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, struct config, top_fields),
};

/* Every number: range and default.  For those of a node, `offset` is into its struct and the
 * path is without "nodes[]". */
struct number {
    const char *path;
    size_t offset;
    int64_t min, max, fallback;
};

#define DAY_MS 86400000

static const struct number numbers[] = {
    /* workers 0: config.c counts processors */
    {"workers", offsetof(struct config, workers), 1, 64, 0},
    {"hold_ms", offsetof(struct config, hold_ms), 0, 600000, 1000},
    {"shutdown_delay_ms", offsetof(struct config, shutdown_delay_ms), 0, 600000, 0},
    {"shutdown_grace_ms", offsetof(struct config, shutdown_grace_ms), 0, DAY_MS, 30000},
    {"registry.lease_ms", offsetof(struct config, registry.lease_ms), 200, 600000, 10000},
    {"registry.heartbeat_ms", offsetof(struct config, registry.heartbeat_ms), 50, 300000, 2000},
    {"limits.max_connections", offsetof(struct config, limits.max_connections), 1, 65536, 8192},
    {"limits.max_per_client", offsetof(struct config, limits.max_per_client), 0, 65536, 0},
    {"limits.max_nodes", offsetof(struct config, limits.max_nodes), 1, 1024, 256},
    {"limits.max_body_bytes", offsetof(struct config, limits.max_body_bytes), 1024,
     128 * 1024 * 1024, 64 * 1024 * 1024},
    {"limits.max_answer_bytes", offsetof(struct config, limits.max_answer_bytes), 0, UINT32_MAX,
     512 * 1024 * 1024},
    {"limits.worker_memory_bytes", offsetof(struct config, limits.worker_memory_bytes), 0,
     UINT32_MAX, UINT32_C(2) * 1024 * 1024 * 1024},
    {"limits.max_body_total_bytes", offsetof(struct config, limits.max_body_total_bytes), 1024,
     UINT32_MAX, 512 * 1024 * 1024},
    {"limits.request_timeout_ms", offsetof(struct config, limits.request_timeout_ms), 10,
     DAY_MS, 3600000},
    {"limits.header_timeout_ms", offsetof(struct config, limits.header_timeout_ms), 10, DAY_MS,
     30000},
    {"limits.idle_timeout_ms", offsetof(struct config, limits.idle_timeout_ms), 10, DAY_MS,
     75000},
    {"limits.write_stall_ms", offsetof(struct config, limits.write_stall_ms), 10, DAY_MS,
     30000},
    {"limits.load_ms", offsetof(struct config, limits.load_ms), 10, DAY_MS, 900000},
    {"limits.first_token_ms", offsetof(struct config, limits.first_token_ms), 10, DAY_MS,
     600000},
    {"limits.idle_token_ms", offsetof(struct config, limits.idle_token_ms), 10, DAY_MS, 300000},
    {"limits.connect_timeout_ms", offsetof(struct config, limits.connect_timeout_ms), 10,
     600000, 3000},
    {"limits.max_attempts", offsetof(struct config, limits.max_attempts), 1, 16, 3},
    {"limits.max_resumes", offsetof(struct config, limits.max_resumes), 0, 16, 2},
    {"queue.max_waiting", offsetof(struct config, queue.max_waiting), 0, 1000000, 1024},
    {"queue.max_wait_ms", offsetof(struct config, queue.max_wait_ms), 0, DAY_MS, 300000},
    {"queue.comment_after_ms", offsetof(struct config, queue.comment_after_ms), 0, DAY_MS,
     10000},
    {"prefix.entries", offsetof(struct config, prefix.entries), 1024, 16777216, 262144},
    {"prefix.window_bytes", offsetof(struct config, prefix.window_bytes), 64, 65536, 1024},
    /* those of models[].hedge and .queue have the same ranges; config.c fills them in */
    {"hedge.budget_pct", offsetof(struct config, hedge.budget_pct), 1, 100, 5},
    {"hedge.floor_ms", offsetof(struct config, hedge.floor_ms), 1, DAY_MS, 100},
    {"hedge.min_samples", offsetof(struct config, hedge.min_samples), 1, 1000000, 20},
    {"health.interval_ms", offsetof(struct config, health.interval_ms), 50, 3600000, 2000},
    {"health.timeout_ms", offsetof(struct config, health.timeout_ms), 10, 600000, 1000},
    {"health.rise", offsetof(struct config, health.rise), 1, 100, 2},
    {"health.fall", offsetof(struct config, health.fall), 1, 100, 2},
    {"health.eject_failures", offsetof(struct config, health.eject_failures), 0, 10000, 5},
    {"health.eject_success_pct", offsetof(struct config, health.eject_success_pct), 0, 100, 80},
    {"health.eject_min_requests", offsetof(struct config, health.eject_min_requests), 1, 100000,
     5},
    {"health.eject_window_ms", offsetof(struct config, health.eject_window_ms), 1000, 3600000,
     30000},
    {"health.eject_backoff_ms", offsetof(struct config, health.eject_backoff_ms), 10, DAY_MS,
     5000},
    {"health.eject_backoff_max_ms", offsetof(struct config, health.eject_backoff_max_ms), 10,
     DAY_MS, 300000},
    {"health.resolve_ms", offsetof(struct config, health.resolve_ms), 100, DAY_MS, 30000},
    {"health.flap_wait_ms", offsetof(struct config, health.flap_wait_ms), 0, 60000, 10000},
    {"health.ramp_ms", offsetof(struct config, health.ramp_ms), 0, DAY_MS, 30000},
    {"testing.speedup", offsetof(struct config, testing.speedup), 1, 1000, 1},
};

static const struct number node_numbers[] = {
    {"slots", offsetof(struct config_node, slots), 0, 65535, 0},
    {"weight", offsetof(struct config_node, weight), 1, 1000, 100},
    {"queue", offsetof(struct config_node, queue), -1, 65535, -1},
};

/* Levenshtein distance, for "did you mean": both texts are short. */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[32];
    size_t n = strlen(b);

    if (n >= ARRAY_LEN(row) || strlen(a) >= ARRAY_LEN(row))
        return UINT32_MAX;
    for (unsigned j = 0; j <= n; j++)
        row[j] = j;
    for (unsigned i = 1; a[i - 1] != '\0'; i++) {
        unsigned diagonal = row[0];

        row[0] = i;
        for (unsigned j = 1; j <= n; j++) {
            unsigned best = diagonal + (a[i - 1] != b[j - 1]);

            if (row[j] + 1 < best)
                best = row[j] + 1;
            if (row[j - 1] + 1 < best)
                best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

static int fail_unknown_key(const struct doc *doc, const struct doc_item *item,
                            const cyaml_schema_field_t *fields, struct error *err)
{
    const char *near = NULL;
    unsigned least = (unsigned)strlen(item->key) / 2 + 1; /* farther is no help */

    for (; fields->key != NULL; fields++) {
        unsigned d = distance(item->key, fields->key);

        if (d < least) {
            least = d;
            near = fields->key;
        }
    }
    if (near != NULL)
        return doc_fail(doc, item, err, "unknown key; did you mean '%s'?", near);
    return doc_fail(doc, item, err, "unknown key");
}

/* Optional minus, digits, no leading zero (YAML 1.1 would read 010 as 8). */
static bool parse_whole(const char *text, int64_t *out)
{
    bool negative = text[0] == '-';
    const char *digits = text + negative;
    size_t n = strlen(digits);
    int64_t value = 0;

    if (n == 0 || n > 18 || strspn(digits, "0123456789") != n || (n > 1 && digits[0] == '0'))
        return false;
    for (size_t i = 0; i < n; i++)
        value = value * 10 + (digits[i] - '0');
    *out = negative ? -value : value;
    return true;
}

static int check_number(const struct doc *doc, const struct doc_item *item,
                        const struct number *number, struct error *err)
{
    const char *digits = item->text + (item->text[0] == '-');
    int64_t value = 0;
    bool whole = parse_whole(item->text, &value);

    if (whole && value >= number->min && value <= number->max)
        return 0;
    if (whole || (digits[0] != '\0' && digits[0] != '0' &&
                  strspn(digits, "0123456789") == strlen(digits)))
        return doc_fail(doc, item, err, "must be from %lld to %lld, not %.60s",
                        (long long)number->min, (long long)number->max,
                        doc_shown(item, item->text));
    return doc_fail(doc, item, err, "must be a whole number, not '%.60s'",
                    doc_shown(item, item->text));
}

static const struct number *number_at(const struct number *table, size_t n, const char *path)
{
    for (size_t i = 0; i < n; i++) {
        if (strcmp(table[i].path, path) == 0)
            return &table[i];
    }
    return NULL;
}

/* The row of the range table for an item, found by its path. */
static const struct number *number_of(const struct doc_item *item)
{
    const struct doc_item *up = item->parent;
    char path[64];

    if (up->key == NULL && up->parent != NULL)
        return number_at(node_numbers, ARRAY_LEN(node_numbers), item->key);
    if (up->parent == NULL)
        return number_at(numbers, ARRAY_LEN(numbers), item->key);
    (void)snprintf(path, sizeof(path), "%s.%s", up->key, item->key);
    return number_at(numbers, ARRAY_LEN(numbers), path);
}

static int check_name_of(const struct doc *doc, const struct doc_item *item,
                         const cyaml_schema_value_t *schema, struct error *err)
{
    char names[160] = "";
    size_t used = 0;
    int w;

    for (uint32_t i = 0; i < schema->enumeration.count; i++) {
        const cyaml_strval_t *entry = &schema->enumeration.strings[i];

        if (strcmp(entry->str, item->text) == 0)
            return 0;
        w = snprintf(names + used, sizeof(names) - used, "%s%s", used == 0 ? "" : ", ",
                     entry->str);
        if (w > 0 && used + (size_t)w < sizeof(names))
            used += (size_t)w;
    }
    return doc_fail(doc, item, err, "must be one of %s; not '%.60s'", names,
                    doc_shown(item, item->text));
}

static int check_text(const struct doc *doc, const struct doc_item *item, struct error *err)
{
    if (strlen(item->text) > TEXT_MAX)
        return doc_fail(doc, item, err, "is longer than %d bytes", TEXT_MAX);
    if (item->plain && (strcmp(item->text, "~") == 0 || strcasecmp(item->text, "null") == 0))
        return doc_fail(doc, item, err,
                        "must be a text; leave the key out for its default, or use quotes");
    for (const unsigned char *p = (const unsigned char *)item->text; *p != '\0'; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return doc_fail(doc, item, err, "has a control character");
    }
    return 0;
}

static int check_scalar(const struct doc *doc, const struct doc_item *item,
                        const cyaml_schema_value_t *schema, struct error *err)
{
    const struct number *number;

    if (item->text[0] == '\0')
        return doc_fail(doc, item, err, "the value is missing");
    if (schema->type == CYAML_BOOL) {
        if (strcmp(item->text, "true") == 0 || strcmp(item->text, "false") == 0)
            return 0;
        return doc_fail(doc, item, err, "must be true or false, not '%.60s'",
                        doc_shown(item, item->text));
    }
    if (schema->type == CYAML_ENUM)
        return check_name_of(doc, item, schema, err);
    if (schema->type == CYAML_STRING)
        return check_text(doc, item, err);
    number = number_of(item);
    if (number == NULL)
        return doc_fail(doc, item, err, "has no range in this program"); /* ours to fix */
    return check_number(doc, item, number, err);
}

static int check_item(const struct doc *doc, const struct doc_item *item,
                      const cyaml_schema_value_t *schema, struct error *err);

static int check_mapping(const struct doc *doc, const struct doc_item *mapping,
                         const cyaml_schema_field_t *fields, struct error *err)
{
    uint64_t seen = 0; /* one bit a field; no mapping here has 64 */
    const struct doc_item *item;
    unsigned i;
    int rc;

    for (item = mapping->first; item != NULL; item = item->next) {
        for (i = 0; fields[i].key != NULL && strcmp(fields[i].key, item->key) != 0;)
            i++;
        if (fields[i].key == NULL)
            return fail_unknown_key(doc, item, fields, err);
        if ((seen >> i & 1) != 0)
            return doc_fail(doc, item, err, "this key is given twice");
        seen |= UINT64_C(1) << i;
        rc = check_item(doc, item, &fields[i].value, err);
        if (rc != 0)
            return rc;
    }
    for (i = 0; fields[i].key != NULL; i++) {
        if ((seen >> i & 1) == 0 && (fields[i].value.flags & CYAML_FLAG_OPTIONAL) == 0)
            return doc_fail(doc, mapping, err, "'%s' is missing", fields[i].key);
    }
    return 0;
}

/* The aliases, and their models, which are a text or a list: libcyaml cannot read them. */
static int check_own(const struct doc *doc, const struct doc_item *item, struct error *err)
{
    const struct doc_item *entry;
    int rc = 0;

    if (item->parent == doc->root)
        return check_item(doc, item, &alias_list, err);
    if (item->kind == DOC_LIST && item->first == NULL)
        return doc_fail(doc, item, err, "the list is empty");
    for (entry = item->kind == DOC_LIST ? item->first : item; entry != NULL && rc == 0;
         entry = entry == item ? NULL : entry->next)
        rc = entry->kind != DOC_SCALAR
                 ? doc_fail(doc, entry, err, "must be the name of a model, or a list of names")
             : entry->text[0] == '\0' ? doc_fail(doc, entry, err, "the value is missing")
                                      : check_text(doc, entry, err);
    return rc;
}

/* Recursion is bounded by the depth of the schema. */
static int check_item(const struct doc *doc, const struct doc_item *item,
                      const cyaml_schema_value_t *schema, struct error *err)
{
    const struct doc_item *entry;
    int rc = 0;

    if (schema->type == CYAML_IGNORE)
        return check_own(doc, item, err);
    if (schema->type == CYAML_MAPPING) {
        if (item->kind != DOC_MAPPING)
            return doc_fail(doc, item, err, "must be keys with values (KEY: VALUE)");
        return check_mapping(doc, item, schema->mapping.fields, err);
    }
    if (schema->type == CYAML_SEQUENCE) {
        if (item->kind != DOC_LIST)
            return doc_fail(doc, item, err, "must be a list (lines that start with '- ')");
        for (entry = item->first; entry != NULL && rc == 0; entry = entry->next)
            rc = check_item(doc, entry, schema->sequence.entry, err);
        return rc;
    }
    if (item->kind != DOC_SCALAR)
        return doc_fail(doc, item, err, "must be a single value, not a %s",
                        item->kind == DOC_LIST ? "list" : "group of keys");
    return check_scalar(doc, item, schema, err);
}

int config_schema_check(const struct doc *doc, struct error *err)
{
    return check_item(doc, doc->root, &top_schema, err);
}

/* libcyaml's own complaint, should it have one about text that passed our check. */
struct complaint {
    char text[160];
};

static void note_complaint(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
    __attribute__((format(printf, 3, 0)));
static void note_complaint(cyaml_log_t level, void *ctx, const char *fmt, va_list args)
{
    struct complaint *complaint = ctx;

    if (level >= CYAML_LOG_ERROR && complaint->text[0] == '\0') {
        (void)vsnprintf(complaint->text, sizeof(complaint->text), fmt, args);
        complaint->text[strcspn(complaint->text, "\n")] = '\0';
    }
}

static cyaml_config_t parser_config(struct complaint *complaint)
{
    return (cyaml_config_t){
        .log_fn = note_complaint,
        .log_ctx = complaint,
        .log_level = CYAML_LOG_ERROR,
        .mem_fn = cyaml_mem,
        .flags = CYAML_CFG_NO_ALIAS,
    };
}

void config_schema_free(struct config *config)
{
    struct complaint complaint = {""};
    cyaml_config_t cyaml = parser_config(&complaint);

    if (config == NULL)
        return;
    for (unsigned i = 0; i < config->aliases_count; i++) {
        free(config->aliases[i].name);
        free(config->aliases[i].model);
    }
    free(config->aliases);
    config->aliases = NULL;
    (void)cyaml_free(&cyaml, &top_schema, config, 0);
}

static bool add_alias(struct config *config, const char *name, const char *model)
{
    struct config_alias *grown =
        reallocarray(config->aliases, config->aliases_count + 1, sizeof(*config->aliases));
    struct config_alias *alias;

    if (grown == NULL)
        return false;
    config->aliases = grown;
    alias = &grown[config->aliases_count++];
    alias->name = strdup(name);
    alias->model = strdup(model);
    return alias->name != NULL && alias->model != NULL;
}

/* One row for each model of each alias. */
static bool load_aliases(struct config *config, const struct doc *doc)
{
    const struct doc_item *list = doc_find(doc, "aliases");
    const struct doc_item *item = list == NULL ? NULL : list->first;

    for (; item != NULL; item = item->next) {
        const char *name = doc_get(item, "name")->text;
        const struct doc_item *model = doc_get(item, "model");

        if (model->kind == DOC_SCALAR) {
            if (!add_alias(config, name, model->text))
                return false;
            continue;
        }
        for (model = model->first; model != NULL; model = model->next)
            if (!add_alias(config, name, model->text))
                return false;
    }
    return true;
}

/* All numbers are 32 bits wide; the table's ranges say whether they have a sign. */
static void set_number(void *base, const struct number *number)
{
    uint32_t bits = (uint32_t)number->fallback;

    memcpy((char *)base + number->offset, &bits, sizeof(bits));
}

static void set_defaults(struct config *config, const struct doc *doc)
{
    const struct doc_item *nodes = doc_find(doc, "nodes");
    const struct doc_item *node = nodes == NULL ? NULL : nodes->first;

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        if (doc_find(doc, numbers[i].path) == NULL)
            set_number(config, &numbers[i]);
    }
    for (unsigned n = 0; n < config->nodes_count && node != NULL; n++, node = node->next) {
        for (size_t i = 0; i < ARRAY_LEN(node_numbers); i++) {
            if (doc_get(node, node_numbers[i].path) == NULL)
                set_number(&config->nodes[n], &node_numbers[i]);
        }
    }
}

/* libcyaml reads text only: it gets the tree's, in which all is expanded. */
int config_schema_load(struct config **out, const struct doc *doc, struct error *err)
{
    struct complaint complaint = {""};
    cyaml_config_t cyaml = parser_config(&complaint);
    struct config *config = NULL;
    struct buf text = BUF_INIT;
    cyaml_err_t rc;

    *out = NULL;
    doc_write(&text, doc);
    rc = text.failed ? CYAML_ERR_OOM
                     : cyaml_load_data(buf_head(&text), buf_size(&text), &cyaml, &top_schema,
                                       (cyaml_data_t **)&config, NULL);
    if (buf_size(&text) != 0)
        explicit_bzero(buf_head(&text), buf_size(&text));
    buf_finish(&text);
    if (rc == CYAML_ERR_OOM)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (rc != CYAML_OK)
        return doc_fail(doc, NULL, err, "%s",
                        complaint.text[0] != '\0' ? complaint.text : cyaml_strerror(rc));
    set_defaults(config, doc);
    if (!load_aliases(config, doc)) {
        config_schema_free(config);
        return error_set(err, DRV_ENOMEM, "out of memory");
    }
    *out = config;
    return 0;
}
