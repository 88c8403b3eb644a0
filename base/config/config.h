/*
 * config.h - what the configuration file says, as data.
 *
 * The file is YAML; docs/configuration.md is its reference and base/config/config_schema.c its
 * schema. A config is immutable once loaded.  The master loads it and its children inherit it
 * by fork(); after a reload the health process parses the new text again from a descriptor that
 * the master gives it.
 *
 * Every number with a dimension has its unit in the key: interval_ms, max_body_bytes.
 */
#ifndef DROVER_BASE_CONFIG_H
#define DROVER_BASE_CONFIG_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/kinds.h"
#include "base/log.h"
#include "base/secure/api_keys.h"
#include "base/secure/privileges.h"
#include "base/secure/sandbox.h"

struct buf;

/* Files of a TLS endpoint; any may be NULL.  ca verifies the peer; with `ca` on a server a
 * client certificate is demanded (mutual TLS). */
struct config_tls {
    bool enabled;
    char *cert, *key, *ca;
    char *server_name; /* client side: the name to verify; NULL = the host of the address */
};

struct config_node {
    char *name;      /* [A-Za-z0-9._-]{1,63}, unique */
    char *address;   /* HOST:PORT of its drover-node */
    uint32_t slots;  /* 0: as the node reports */
    uint32_t weight; /* percent of its share; 100 by default */
    int32_t queue;   /* requests it may hold beyond its slots; -1: ceil(slots / 2) */
    struct config_tls tls;
};

/* One model of an alias.  Those of an alias with several follow each other, the first one
 * first.
 */
struct config_alias {
    char *name;  /* what clients send; with a '*' at its end: names that begin so */
    char *model; /* what nodes serve */
};

/* A second attempt beside one that is slow to its first token. */
struct config_hedge {
    bool enabled;
    uint32_t budget_pct;  /* hedges, of a hundred answered requests; 5 */
    uint32_t floor_ms;    /* none sooner than this after dispatch; 100 */
    uint32_t min_samples; /* first tokens a node must have given before it can be slow; 20 */
};

/* The line of requests that no node has room for. */
struct config_queue {
    uint32_t max_waiting;      /* per model, over all workers; 1024 */
    uint32_t max_wait_ms;      /* 300000 */
    uint32_t comment_after_ms; /* a silent stream begins, with comments; 10000; 0 = never */
};

/* A setting that is left out is as the config has it for all models. */
struct config_model {
    char *name;
    enum policy_kind policy;
    enum request_priority priority;
    struct config_hedge hedge;
    struct config_queue queue;
};

/* An address to listen on: "HOST:PORT", "[V6]:PORT" or "unix:/PATH"; NULL = not served. */
struct config_listen {
    char *address;
    struct config_tls tls;
};

/* The clients' listener: address as in config_listen. */
struct config_api {
    char *address;
    struct config_tls tls;
    char *keys_file;      /* NULL: no key is asked for */
    struct api_keys keys; /* read from it at load time */
    char **cors_origins;  /* patterns of base/secure/origins.h; loopback */
    unsigned cors_origins_count;
    char **trusted_proxies; /* entries of base/secure/proxies.h; none */
    unsigned trusted_proxies_count;
};

/* Metrics, liveness and readiness, for operators. */
struct config_admin {
    char *address;
    struct config_tls tls;
    bool allow_remote; /* it may be reached from other machines without a certificate */
};

struct config_limits {
    uint32_t max_connections;      /* per worker; 8192 */
    uint32_t max_per_client;       /* connections per client address and worker; 0 = no cap */
    uint32_t max_nodes;            /* rows of the node table; 256; not reloadable */
    uint32_t max_body_bytes;       /* 64 MiB; at most 128 MiB, which a node takes */
    uint32_t max_body_total_bytes; /* per worker, bodies held at once; 512 MiB */
    uint32_t max_answer_bytes;     /* of one answer; 512 MiB; 0 = no limit */
    uint32_t
        worker_memory_bytes; /* per worker; more requests are refused then; 2 GiB; 0 = off */
    uint32_t request_timeout_ms; /* without content, queueing included; 3600000 */
    uint32_t header_timeout_ms;  /* head and body of a request; 30000 */
    uint32_t idle_timeout_ms;    /* keep-alive connection with nothing on it; 75000 */
    uint32_t write_stall_ms;     /* client that takes no byte; 30000 */
    uint32_t load_ms;            /* engine without a sign loads a model; 900000 */
    uint32_t first_token_ms;     /* ... has no content yet; 600000 */
    uint32_t idle_token_ms;      /* ... is silent between tokens; 300000 */
    uint32_t connect_timeout_ms; /* to a node; 3000 */
    uint32_t max_attempts;       /* per request, the first included; 3 */
    uint32_t max_resumes;        /* of one answer, after its first content; 2 */
};

/* The index of prompt prefixes. */
struct config_prefix {
    uint32_t entries;      /* windows it can hold; 262144; not reloadable */
    uint32_t window_bytes; /* of a canonical prompt; 1024 */
};

struct config_health {
    uint32_t interval_ms;          /* 2000, jittered by 20 % */
    uint32_t timeout_ms;           /* 1000 */
    uint32_t rise;                 /* 2 */
    uint32_t fall;                 /* 2 */
    uint32_t eject_failures;       /* in a row; 5; 0 = never for that */
    uint32_t eject_success_pct;    /* less is too little; 80; 0 = never for that */
    uint32_t eject_min_requests;   /* in the window, before success counts; 5 */
    uint32_t eject_window_ms;      /* 30000 */
    uint32_t eject_backoff_ms;     /* of the first ejection; 5000 */
    uint32_t eject_backoff_max_ms; /* 300000 */
    uint32_t resolve_ms;           /* between two look-ups of a host name; 30000 */
    uint32_t flap_wait_ms;         /* the first wait of a node that flaps; 10000; 0 = none */
    uint32_t ramp_ms;              /* from the first slot to all; 30000; 0 = all at once */
};

struct config_registry {
    struct config_listen listen;
    char *token_file;      /* first line: the join token; a second line: the previous one */
    uint32_t lease_ms;     /* 10000 */
    uint32_t heartbeat_ms; /* 2000 */
};

/* For benchmarks and tests; of no use in front of real engines. */
struct config_testing {
    uint32_t speedup; /* engines and clients are so many times as fast as real ones; 1 */
};

struct config {
    uint32_t workers; /* 1..64; default: number of processors, at most 8 */
    struct config_api api;
    struct config_admin admin;
    struct config_registry registry;
    char *runtime_dir; /* scoreboard, control socket, pid file; owned */
    char *state_dir;   /* what outlives a restart; owned; "" = there is no place for it */
    enum log_level log_level;
    char *log_file;          /* NULL = standard error */
    char *access_log;        /* NULL = none, "-" = standard output */
    enum policy_kind policy; /* for models not named below; fastest */
    uint32_t hold_ms;        /* of work sent to a node; 1000; 0 = requests are sent at once */
    enum request_priority priority; /* of requests that name none; default */
    uint32_t shutdown_delay_ms;     /* 0 */
    uint32_t shutdown_grace_ms;     /* 30000 */
    bool allow_half_close; /* a client that shut down its write side still wants the answer */
    char *user, *group;    /* of the children; NULL = as the master */
    struct privileges run_as;  /* that user */
    bool core_dumps;           /* children may leave memory images */
    enum sandbox_mode seccomp; /* on */
    char *node_token_file;     /* NULL: registry.token_file */
    struct config_limits limits;
    struct config_queue queue; /* for models not named below */
    struct config_prefix prefix;
    struct config_hedge hedge; /* for models not named below; off */
    struct config_health health;
    struct config_testing testing;
    struct config_node *nodes;
    unsigned nodes_count;
    struct config_alias *aliases; /* owned, apart from what libcyaml fills */
    unsigned aliases_count;
    struct config_model *models;
    unsigned models_count;

    /* Read from the token files at load time, never printed.  Owned. */
    char *tokens[2]; /* join tokens, newest first; NULL = none */
};

/* The alias of this very name, without regard to a ":latest" of either: the first of its
 * *models rows; NULL: there is none. */
const struct config_alias *config_find_alias(const struct config *config, const char *name,
                                             unsigned *models);
/* Likewise, of the aliases that end in '*' the one with the longest beginning that `name` has.
 * Real models and other aliases go before it. */
const struct config_alias *config_find_wildcard(const struct config *config, const char *name,
                                                unsigned *models);
/* Does an alias of this very name take the place of a model that is called so? */
MUST_CHECK bool config_alias_hides(const struct config *config, const char *model);
/* Is it the name of an alias for all names that begin so? */
MUST_CHECK bool config_is_wildcard(const char *name);
enum policy_kind config_policy_for(const struct config *config, const char *model);
enum request_priority config_priority_for(const struct config *config, const char *model);
/* How much work is sent to a node before requests are held: microseconds of engines as fast as
 * these.  0 = requests are sent at once: hold_ms is 0, or a model has another policy than
 * fastest, and its requests must not wait for windows. */
uint64_t config_hold_us(const struct config *config);
const struct config_hedge *config_hedge_for(const struct config *config, const char *model);
const struct config_queue *config_queue_for(const struct config *config, const char *model);

/* Appends a line, with its '\n', for each thing that is allowed and perhaps not meant.  Which
 * models there are is not known here. */
void config_warnings(const struct config *config, struct buf *out);

/* The first key of `next` that cannot take effect by a reload of `now`; NULL: there is none.
 */
const char *config_not_reloadable(const struct config *now, const struct config *next);

/* $XDG_RUNTIME_DIR/drover, or /run/drover for root, or /tmp/drover-UID; for tools without a
 * config. */
void config_default_runtime_dir(char *out, size_t cap);

/* $STATE_DIRECTORY, as systemd sets it, or /var/lib/drover for root, or $XDG_STATE_HOME/drover,
 * or
 * ~/.local/state/drover; "" = there is none of these. */
void config_default_state_dir(char *out, size_t cap);

#endif
