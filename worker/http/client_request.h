/*
 * client_request.h - one inference request as read from a client, for the rest of the worker.
 */
#ifndef DROVER_WORKER_HTTP_CLIENT_REQUEST_H
#define DROVER_WORKER_HTTP_CLIENT_REQUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/attrs.h"
#include "base/config/config.h"
#include "base/text/json.h"
#include "base/text/json_check.h"
#include "shm/facts/nodes.h"
#include "worker/api/surface.h"
#include "worker/encoding/decoder.h"

struct error;
struct responder;

#define REQUEST_MAX_FORWARD   16
#define REQUEST_KEPT_BYTES    128 /* with NUL; no engine has a longer one */
#define REQUEST_SESSION_BYTES 128 /* with NUL; a longer affinity key is ignored */

/* How urgent a client says its request is: "interactive" (or "system"), "default", "bulk", or a
 * number, of which less is more urgent (below 0 interactive, above 0 bulk), as vLLM reads it.
 * Anything else is default. */
enum request_priority request_priority_parse(const char *text, size_t n);
/* For the node, where higher runs first: 1, 0, -1. */
int request_priority_number(enum request_priority priority);

struct request_header {
    const char *name;  /* lower case */
    const char *value; /* printable ASCII */
};

/* Everything here lives in the request's pool: valid until the responder's on_done or on_gone
 * returns. */
struct client_request {
    struct responder *responder;
    enum surface surface;
    int operation;            /* enum drover.v1.Operation */
    const char *method;       /* of HTTP */
    const char *execution_id; /* ours: unique, and what nodes know it by */
    /* [A-Za-z0-9._-]{1,64}: the client's x-request-id, which may repeat, or execution_id. */
    const char *id;
    char client_model[NODE_MODEL_BYTES];
    char model[NODE_MODEL_BYTES]; /* after alias resolution */
    bool aliased;                 /* by the configuration, or the client named none */
    bool pooled;                  /* several: a node is asked for its own */
    const uint8_t *body;
    size_t body_len;
    struct json_value root;      /* the body, checked: an object; JSON_NONE when it is a form */
    const char *content_type;    /* of a form as the client sent it, else application/json */
    enum body_encoding encoding; /* of the body as it came */
    bool stream;                 /* the client wants a stream (Ollama: default true) */
    bool client_usage;           /* the client itself asked for usage in the stream */
    enum request_priority priority;
    bool for_codex;         /* a list of models that says which version of it asks */
    const char *session;    /* affinity key, or NULL */
    const char *origin;     /* of a web page that may read the answer, or NULL */
    const char *path;       /* as requested, without the query, for the log */
    const char *path_model; /* the model that the path names, or NULL */
    const char *client;     /* its address as text, for the log */
    uint64_t address;       /* the same as a number; 0 = none */
    const char *key_name;   /* of its API key, for the log; NULL: none was needed */
    uint64_t caller;        /* a hash of its client: of its API key, else of its address */
    int usage_row;          /* where its tokens are counted, shm/facts/usage.h; -1: nowhere */
    /* The thing kept by an engine that it names, the response or conversation that it goes on
     * with or asks for: "" = nothing. */
    char kept_id[REQUEST_KEPT_BYTES];
    const char *kept_member; /* where it names it; NULL = in its path */
    uint64_t holder;    /* hash of the name of the node that has it; 0 = any node will do */
    uint64_t owner;     /* hash of its key's name; 0 = there are no keys */
    bool unkept;        /* the client wants its answer not to be kept */
    const char *target; /* see InferRequest.target, or NULL */
    const char *via;    /* ids of the coordinators that it has passed, this one last */
    struct request_header forward[REQUEST_MAX_FORWARD];
    size_t forward_count;
    uint64_t received_mono_us; /* when the body was complete */
};

/* The model's own name, for a client that used another; NULL: it did not, or it is not known.
 * `at_node`: what the node calls it, "" = the request was at none. */
const char *client_request_own_model(const struct client_request *request, const char *at_node);

/* The result of a look through a body. */
struct inspected {
    struct json_value root;       /* the body, checked; JSON_NONE when it is a form */
    char model[NODE_MODEL_BYTES]; /* "" when absent */
    bool stream;
    bool client_usage;
    char kept_id[REQUEST_KEPT_BYTES]; /* as in struct client_request */
    const char *kept_member;
    bool unkept;
    char session[REQUEST_SESSION_BYTES]; /* prompt_cache_key, or else the user; or "" */
};

/* RFC 2046 allows no longer one. */
#define INSPECT_BOUNDARY_BYTES 70

/* A look through a body for the fields that routing needs, a piece at a time; pure. */
struct inspection {
    int operation; /* decides the default of `stream`, and whether the body is a form */
    const uint8_t *body;
    size_t n;
    size_t seen; /* of JSON */
    struct json_checker checker;
    struct {
        char delimiter[4 + INSPECT_BOUNDARY_BYTES];
        size_t delimiter_len;
        bool begun; /* the first delimiter has been passed */
        bool stream_seen;
        size_t at;     /* behind a delimiter */
        size_t search; /* the next one does not begin before */
    } form;
};

/* `content_type` is of a form, NULL where the body is JSON; `skips` is zero, the caller's to
 * finish, and as long as the root in use.  DRV_EINVAL: see below. */
MUST_CHECK int inspection_begin(struct inspection *inspection, int operation,
                                const char *content_type, const uint8_t *body, size_t n,
                                struct json_skips *skips, struct error *err);

/*
 * Looks at about `most` bytes more (more than 0); *out is zero at first and the same each time.
 * 0: that was the end, and *out is filled.  DRV_EAGAIN: there is more to do.  DRV_EINVAL: not a
 * JSON object, or not a form; a field of the wrong type, or a member that we or a node act on
 * is there twice or in other letters (an engine might read another one); `err` is fit for the
 * client, `*param` names the field or is NULL.
 */
MUST_CHECK int inspection_go(struct inspection *inspection, size_t most, struct inspected *out,
                             const char **param, struct error *err);

/* Both in one go.  DRV_EINVAL as above. */
MUST_CHECK int inspect_body(struct inspected *out, int operation, const uint8_t *body, size_t n,
                            const char **param, struct error *err);
MUST_CHECK int inspect_multipart(struct inspected *out, const char *content_type,
                                 const uint8_t *body, size_t n, struct error *err);

/* Takes all but the model from a body that was read. */
void request_take(struct client_request *request, const struct inspected *body);

/*
 * A request about what engines keep: sets its target, from the part of the path behind "/v1/"
 * and the query, and the id in it.  `target` has room for OPERATION_TARGET_BYTES and a NUL, and
 * stays as long as the request.  False: it leads elsewhere.
 */
MUST_CHECK bool request_take_target(struct client_request *request, char *target,
                                    const char *path, size_t path_len, const char *query,
                                    size_t query_len);

/* Is its body a form, by its operation and its content type? */
MUST_CHECK bool request_is_form(const struct client_request *request);

/* The value of the member `name` of a URL's query, with its %XX decoded.  False: it is not
 * there, or not text that can be a name. */
MUST_CHECK bool request_query(char *out, size_t cap, const char *query, size_t query_len,
                              const char *name);

#endif
