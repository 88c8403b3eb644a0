/* options.h - drover-node's command line.  Pure, but for the host's name. */
#ifndef DROVER_NODE_OPTIONS_H
#define DROVER_NODE_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/config/command_line.h"
#include "base/secure/sandbox.h"
#include "base/secure/tokens.h"
#include "node/agent.h"

struct error;

#define OPTIONS_MAX_COORDINATORS 16
#define OPTIONS_DEFAULT_LISTEN   "0.0.0.0:9090"

#define OPTIONS_KEPT_BYTES 16384

/* All strings are borrowed from argv, or lie in `kept`: no struct of these is copied. */
struct options {
    const char *engine;
    const char *listen;
    const char *advertise; /* numeric; "" = as coordinators see us */
    const char *coordinators[OPTIONS_MAX_COORDINATORS];
    size_t coordinators_count;
    const char *token_file; /* NULL = none */
    char name[AGENT_NODE_ID_BYTES];
    uint32_t slots_min, slots_max; /* equal: so many; both 0: as the engine says, or learned */
    int32_t queue;                 /* -1 = half the slots */
    uint32_t look_every_s;         /* at an idle engine; 0 = by its kind and address */
    const char *engine_key_file, *engine_ca;
    bool engine_insecure;
    const char *models[ENGINE_OFFER_MODELS];
    size_t models_count;
    uint32_t operations; /* bits; 0 = as detected */
    bool resume_ids;     /* ask the engine for token ids */
    const char *tls_cert, *tls_key, *tls_ca;
    const char *coordinator_tls_ca;
    uint32_t drain_timeout_s;
    const char *log_file;
    bool insecure_no_token;
    bool core_dumps;
    enum sandbox_mode seccomp;
    struct command_line line;      /* --log-level, --help, --version */
    char kept[OPTIONS_KEPT_BYTES]; /* what is not as it was given: "~/x", addresses of URLs */
    size_t kept_used;
};

/* DRV_EINVAL with one line that says what is wrong.  Uses getopt_long(3). */
MUST_CHECK int options_parse(struct options *out, int argc, char **argv, struct error *err);

/* The text of -h. */
extern const char options_help[];

/* Reads a token file; see tokens_parse().  DRV_EINVAL, DRV_ENOENT, DRV_ESYS. */
MUST_CHECK int options_read_tokens(char out[TOKENS_MAX][TOKEN_MAX_BYTES + 1], const char *path,
                                   struct error *err);

#endif
