/*
 * http.c - an engine behind HTTP: runs requests on it.
 *
 * A request is one libcurl transfer.  Cancelling takes the transfer out, which closes its
 * connection: that is what stops an engine's generation.  libcurl must not be re-entered from
 * its own callbacks, so a run that is cancelled there is reaped at the end of the turn.
 */
#include <curl/curl.h>
#include <errno.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/queue.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/loop.h"
#include "base/io/net.h"
#include "base/log.h"
#include "base/secure/secret.h"
#include "base/text/buf.h"
#include "base/text/splices.h"
#include "node/engine/curl_loop.h"
#include "node/engine/engine.h"
#include "node/engine/headers.h"
#include "node/engine/look/looks.h"

#define HEAD_MAX_BYTES     (64 * 1024)
#define CONNECT_TIMEOUT_MS 3000L
#define MAX_KEY_BYTES      HEADERS_MAX_VALUE_BYTES
#define KEY_FILE_BYTES     4096
#define URL_MAX_BYTES      900
#define PATH_MAX_BYTES     1120 /* of an operation, with its target */
#define AUTHORIZATION      "Authorization: Bearer "
#define UPLOAD_BYTES       (256 * 1024L) /* of a long body, sent at once */

struct engine_run {
    struct curl_job job; /* job.easy owned */
    struct engine *engine;
    struct curl_slist *headers; /* owned */
    const struct engine_events *events;
    void *data;
    bool cancelled;    /* waits to be reaped; calls back no more */
    bool sent_head;    /* on_head has run */
    bool encoded;      /* the body has a content coding */
    bool bad_head;     /* headers, or trailers, over the limit */
    bool want_resumed; /* engine_pause(run, false) came; done at the end of the turn */
    unsigned status;
    size_t head_bytes; /* trailers, too */
    char content_type[128];
    char model[ENGINE_MODEL_BYTES];
    const struct splices *body; /* borrowed; NULL: libcurl has the body */
    struct splices_reader reader;
    struct engine_header list[HEADERS_MAX];
    char *values[HEADERS_MAX][2]; /* owned: name and value */
    size_t count;
    LIST_ENTRY(engine_run) link; /* in engine->runs */
};

struct engine {
    struct curl_loop curl;
    struct loop *loop; /* borrowed */
    struct engine_config config;
    char *url;           /* owned; without a trailing slash */
    char *authorization; /* owned; the whole header line, or NULL */
    LIST_HEAD(, engine_run) runs;
    struct deferred chores; /* reaps cancelled runs, resumes paused ones, reports new facts */
    bool facts_changed;     /* between two looks */
    struct looks looks;
    void (*on_facts)(void *data); /* NULL = no listener */
    void *on_facts_data;
};

/* The options common to every transfer. */
static void set_common(struct engine *engine, CURL *easy, const char *path)
{
    char url[2048];

    (void)snprintf(url, sizeof(url), "%s%s", engine->url, path);
    (void)curl_easy_setopt(easy, CURLOPT_URL, url);
    (void)curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    (void)curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, CURL_HTTP_VERSION_1_1);
    (void)curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_PROXY, "");
    (void)curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L);
    (void)curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, CONNECT_TIMEOUT_MS);
    (void)curl_easy_setopt(easy, CURLOPT_TCP_KEEPALIVE, 1L);
    /* llama-server closes an idle connection after 5 s: do not race with it. */
    (void)curl_easy_setopt(easy, CURLOPT_MAXAGE_CONN, 4L);
    /* Asks for no compression, and decodes lists and errors that come compressed. */
    (void)curl_easy_setopt(easy, CURLOPT_ACCEPT_ENCODING, "identity");
    (void)curl_easy_setopt(easy, CURLOPT_USERAGENT, "drover-node/" DROVER_VERSION);
    if (engine->config.ca_file != NULL)
        (void)curl_easy_setopt(easy, CURLOPT_CAINFO, engine->config.ca_file);
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, engine->config.insecure ? 0L : 1L);
    (void)curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, engine->config.insecure ? 0L : 2L);
}

/* ---- runs ------------------------------------------------------------------------------ */

static void free_run(struct engine_run *run)
{
    LIST_REMOVE(run, link);
    curl_easy_cleanup(run->job.easy);
    curl_loop_free_headers(run->headers);
    for (size_t i = 0; i < run->count; i++) {
        free(run->values[i][0]);
        free(run->values[i][1]);
    }
    free(run);
}

static void do_chores(struct deferred *deferred)
{
    struct engine *engine = CONTAINER_OF(deferred, struct engine, chores);
    struct engine_run *run, *next;

    LIST_FOREACH_SAFE(run, &engine->runs, link, next) {
        if (run->cancelled) {
            curl_loop_remove(&engine->curl, &run->job);
            free_run(run);
        }
    }
    /* Resuming delivers bytes that libcurl holds, so it may cancel runs: a second pass. */
    LIST_FOREACH(run, &engine->runs, link) {
        if (run->cancelled || !run->want_resumed)
            continue;
        run->want_resumed = false;
        engine->curl.inside++;
        (void)curl_easy_pause(run->job.easy, CURLPAUSE_CONT);
        engine->curl.inside--;
    }
    if (engine->facts_changed && engine->on_facts != NULL)
        engine->on_facts(engine->on_facts_data);
    engine->facts_changed = false;
}

static void keep_header(struct engine_run *run, const char *name, const char *value)
{
    char *copy_name, *copy_value;

    if (strcmp(name, "content-type") == 0 && headers_value_ok(value)) {
        (void)strlcpy(run->content_type, value, sizeof(run->content_type));
        return;
    }
    if (strcmp(name, "content-encoding") == 0)
        run->encoded |= *value != '\0' && strcasecmp(value, "identity") != 0;
    if (run->count == HEADERS_MAX || !headers_to_client(name, value))
        return;
    copy_name = strdup(name);
    copy_value = strdup(value);
    if (copy_name == NULL || copy_value == NULL) {
        free(copy_name);
        free(copy_value);
        return; /* the answer matters more than its decoration */
    }
    run->values[run->count][0] = copy_name;
    run->values[run->count][1] = copy_value;
    run->list[run->count] = (struct engine_header){.name = copy_name, .value = copy_value};
    run->count++;
}

static size_t on_header_line(char *line, size_t size, size_t n, void *data)
{
    struct engine_run *run = data;
    char name[HEADERS_MAX_NAME_BYTES + 1], value[HEADERS_MAX_VALUE_BYTES + 1];

    (void)size; /* always 1 */
    if (run->cancelled)
        return 0;
    run->head_bytes += n;
    if (run->head_bytes > HEAD_MAX_BYTES) {
        run->bad_head = true;
        return 0;
    }
    if (run->sent_head)
        return n; /* trailers: libcurl keeps them until the run ends */
    if (n >= 5 && memcmp(line, "HTTP/", 5) == 0) {
        run->content_type[0] = '\0';
        run->encoded = false;
        return n;
    }
    if (n <= 2 && (line[0] == '\r' || line[0] == '\n')) {
        long status = 0;

        (void)curl_easy_getinfo(run->job.easy, CURLINFO_RESPONSE_CODE, &status);
        if (status < 200)
            return n; /* 100 Continue and its kind: the real head follows */
        run->status = (unsigned)status;
        run->sent_head = true;
        run->events->on_head(run->data, run->status, run->content_type, run->encoded, run->list,
                             run->count);
        return run->cancelled ? 0 : n;
    }
    if (headers_split(line, n, name, sizeof(name), value, sizeof(value)))
        keep_header(run, name, value);
    return n;
}

static size_t on_body_bytes(char *bytes, size_t size, size_t n, void *data)
{
    struct engine_run *run = data;

    (void)size;
    if (run->cancelled || !run->sent_head)
        return 0;
    looks_heard(&run->engine->looks);
    if (n != 0)
        run->events->on_body(run->data, (const uint8_t *)bytes, n);
    return run->cancelled ? 0 : n;
}

static enum engine_end end_of(const struct engine_run *run, CURLcode code)
{
    if (run->bad_head)
        return ENGINE_END_GARBAGE;
    switch ((int)code) {
    case CURLE_OK:
        return run->sent_head ? ENGINE_END_OK : ENGINE_END_GARBAGE;
    case CURLE_COULDNT_RESOLVE_HOST:
    case CURLE_COULDNT_CONNECT:
    case CURLE_OPERATION_TIMEDOUT: /* only connecting has a limit */
    case CURLE_SSL_CONNECT_ERROR:
    case CURLE_PEER_FAILED_VERIFICATION:
        return ENGINE_END_UNREACHABLE;
    case CURLE_WEIRD_SERVER_REPLY:
    case CURLE_UNSUPPORTED_PROTOCOL: /* HTTP/0.9: it sent no status line */
    case CURLE_BAD_CONTENT_ENCODING:
    case CURLE_WRITE_ERROR:
        return ENGINE_END_GARBAGE;
    default: /* libcurl has a hundred of them; the rest are broken connections */
        return ENGINE_END_LOST;
    }
}

/* Does no program listen any more where the run was connected to?  Only a refusal that comes at
 * once says so, as it does on the engine's own machine. */
static bool listens_no_more(const struct engine_run *run)
{
    const char *ip = NULL;
    struct net_addr address;
    char text[NET_TEXT_BYTES];
    long port = 0;
    int fd, code = 0;
    socklen_t length = sizeof(code);

    (void)curl_easy_getinfo(run->job.easy, CURLINFO_PRIMARY_IP, &ip);
    (void)curl_easy_getinfo(run->job.easy, CURLINFO_PRIMARY_PORT, &port);
    if (ip == NULL || port <= 0)
        return false;
    (void)snprintf(text, sizeof(text), strchr(ip, ':') != NULL ? "[%s]:%ld" : "%s:%ld", ip,
                   port);
    if (net_parse(&address, text, NULL) != 0)
        return false;
    fd = socket(address.sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd == -1)
        return false;
    if (connect(fd, (const struct sockaddr *)&address.sa, address.len) == -1)
        code = errno;
    /* The kernel reports the refusal of a local port after the call, but without a delay. */
    if (code == EINPROGRESS)
        (void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &code, &length);
    (void)close(fd);
    return code == ECONNREFUSED;
}

static void on_run_done(struct curl_job *job, CURLcode code)
{
    struct engine_run *run = CONTAINER_OF(job, struct engine_run, job);

    if (!run->cancelled) {
        enum engine_end end = end_of(run, code);
        const char *why =
            run->bad_head ? "its headers or trailers are too long" : curl_easy_strerror(code);

        if (end == ENGINE_END_LOST && (!run->sent_head || listens_no_more(run)))
            end = ENGINE_END_DIED;

        looks_run_ended(&run->engine->looks,
                        end == ENGINE_END_OK ? LOOKS_RUN_ENDED : LOOKS_RUN_BROKE);
        run->events->on_end(run->data, end, why);
    }
    free_run(run);
}

static int add_header(struct engine_run *run, const char *line)
{
    struct curl_slist *grown = curl_slist_append(run->headers, line);

    if (grown == NULL)
        return DRV_ENOMEM;
    run->headers = grown;
    return 0;
}

static int add_headers(struct engine_run *run, const struct engine_request *request)
{
    char line[HEADERS_MAX_NAME_BYTES + HEADERS_MAX_VALUE_BYTES + 8];
    int rc = add_header(run, "Expect:");

    (void)snprintf(line, sizeof(line), "Content-Type: %s", request->content_type);
    if (rc == 0)
        rc = add_header(run, line);
    if (rc == 0 && run->engine->authorization != NULL)
        rc = add_header(run, run->engine->authorization);
    /* Old vLLMs refuse an id that another request there still has, so each attempt has its own.
     */
    (void)snprintf(line, sizeof(line),
                   request->attempt == 0 ? "X-Request-Id: %s" : "X-Request-Id: %s-%u",
                   request->id, (unsigned)request->attempt);
    if (rc == 0 && request->id != NULL && request->id[0] != '\0')
        rc = add_header(run, line);
    if (rc == 0 && request->attempt != 0) {
        (void)snprintf(line, sizeof(line), "X-Drover-Attempt: %u", (unsigned)request->attempt);
        rc = add_header(run, line);
    }
    for (size_t i = 0; rc == 0 && i < request->headers_count; i++) {
        const struct engine_header *header = &request->headers[i];

        if (!headers_to_engine(header->name, header->value))
            continue;
        (void)snprintf(line, sizeof(line), "%s: %s", header->name, header->value);
        rc = add_header(run, line);
    }
    return rc;
}

/* ---- the body -------------------------------------------------------------------------- */

static size_t on_read_body(char *to, size_t size, size_t n, void *data)
{
    struct engine_run *run = data;

    if (run->cancelled)
        return CURL_READFUNC_ABORT;
    return splices_read(run->body, &run->reader, to, size * n);
}

/* libcurl begins again where it finds a connection dead before it has an answer. */
static int on_seek_body(void *data, curl_off_t offset, int origin)
{
    struct engine_run *run = data;

    if (origin != SEEK_SET || offset != 0)
        return CURL_SEEKFUNC_CANTSEEK;
    run->reader = (struct splices_reader){0};
    return CURL_SEEKFUNC_OK;
}

static void set_body(struct engine_run *run, const struct engine_request *request)
{
    CURL *easy = run->job.easy;

    run->body = request->splices;
    if (run->body == NULL) {
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDS, (const char *)request->body);
        (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                               (curl_off_t)request->body_len);
        return;
    }
    (void)curl_easy_setopt(easy, CURLOPT_POST, 1L);
    (void)curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
                           (curl_off_t)splices_size(run->body));
    (void)curl_easy_setopt(easy, CURLOPT_UPLOAD_BUFFERSIZE, UPLOAD_BYTES);
    (void)curl_easy_setopt(easy, CURLOPT_READFUNCTION, on_read_body);
    (void)curl_easy_setopt(easy, CURLOPT_READDATA, run);
    (void)curl_easy_setopt(easy, CURLOPT_SEEKFUNCTION, on_seek_body);
    (void)curl_easy_setopt(easy, CURLOPT_SEEKDATA, run);
}

bool engine_has_body(const struct engine_run *run)
{
    return run->body == NULL || splices_at_end(run->body, &run->reader);
}

int engine_start(struct engine *engine, struct engine_run **out,
                 const struct engine_request *request, const struct engine_events *events,
                 void *data, struct error *err)
{
    const char *base = engine_path(request->operation);
    bool post = request->method == NULL || strcmp(request->method, "POST") == 0;
    char path[PATH_MAX_BYTES];
    struct engine_run *run;
    int rc = DRV_ENOMEM;

    if (base == NULL || !headers_value_ok(request->content_type))
        return error_set(err, DRV_EINVAL, "unknown operation or bad content type");
    (void)snprintf(path, sizeof(path), "%s%s", base,
                   request->target == NULL ? "" : request->target);
    run = calloc(1, sizeof(*run));
    if (run == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    run->engine = engine;
    run->events = events;
    run->data = data;
    run->job.on_done = on_run_done;
    if (request->model != NULL)
        (void)strlcpy(run->model, request->model, sizeof(run->model));
    LIST_INSERT_HEAD(&engine->runs, run, link);
    run->job.easy = curl_easy_init();
    if (run->job.easy != NULL)
        rc = add_headers(run, request);
    if (rc == 0) {
        set_common(engine, run->job.easy, path);
        /* On a connection that was kept, libcurl sends a request again by itself when the
         * engine closes it without an answer.  The engine may have died of the request, or it
         * closed a connection that it held for idle: the two look alike. */
        (void)curl_easy_setopt(run->job.easy, CURLOPT_FRESH_CONNECT, 1L);
        (void)curl_easy_setopt(run->job.easy, CURLOPT_FORBID_REUSE, 1L);
        set_body(run, request);
        if (!post) {
            (void)curl_easy_setopt(run->job.easy, CURLOPT_HTTPGET, 1L);
            (void)curl_easy_setopt(run->job.easy, CURLOPT_CUSTOMREQUEST, request->method);
        }
        (void)curl_easy_setopt(run->job.easy, CURLOPT_HTTPHEADER, run->headers);
        (void)curl_easy_setopt(run->job.easy, CURLOPT_HEADERFUNCTION, on_header_line);
        (void)curl_easy_setopt(run->job.easy, CURLOPT_HEADERDATA, run);
        (void)curl_easy_setopt(run->job.easy, CURLOPT_WRITEFUNCTION, on_body_bytes);
        (void)curl_easy_setopt(run->job.easy, CURLOPT_WRITEDATA, run);
        rc = curl_loop_add(&engine->curl, &run->job);
    }
    if (rc != 0) {
        free_run(run);
        return error_set(err, rc, "cannot start the engine call: out of memory");
    }
    looks_run_began(&engine->looks);
    *out = run;
    return 0;
}

void engine_cancel(struct engine_run *run, enum engine_cancel state)
{
    struct engine *engine = run->engine;

    run->cancelled = true;
    loop_defer(engine->loop, &engine->chores, do_chores);
    switch (state) {
    case ENGINE_CANCEL_EARLY:
        looks_run_ended(&engine->looks, LOOKS_RUN_LEFT);
        break;
    case ENGINE_CANCEL_AMID:
        looks_run_ended(&engine->looks, LOOKS_RUN_STOPPED);
        break;
    case ENGINE_CANCEL_OVER:
        looks_run_ended(&engine->looks, LOOKS_RUN_ENDED);
        break;
    }
}

void engine_pause(struct engine_run *run, bool paused)
{
    run->want_resumed = !paused;
    if (paused)
        (void)curl_easy_pause(run->job.easy, CURLPAUSE_RECV);
    else
        loop_defer(run->engine->loop, &run->engine->chores, do_chores);
}

static void tell_facts(struct engine *engine)
{
    engine->facts_changed = true;
    loop_defer(engine->loop, &engine->chores, do_chores);
}

void engine_operation_works(struct engine *engine, int operation)
{
    if (detect_operation_works(&engine->looks.detector, operation))
        tell_facts(engine);
}

void engine_refuses_us(struct engine *engine, const char *why)
{
    if (detect_refuses_us(&engine->looks.detector, why))
        tell_facts(engine);
}

void engine_operation_missing(struct engine *engine, const char *model, int operation)
{
    if (detect_operation_missing(&engine->looks.detector, model, operation, clock_mono_us()))
        tell_facts(engine);
}

const struct engine_facts *engine_facts(const struct engine *engine)
{
    return &engine->looks.detector.facts;
}

void engine_doubt(struct engine *engine)
{
    looks_doubt(&engine->looks);
}

bool engine_full_look_since(const struct engine *engine, uint64_t since_mono_us)
{
    return looks_full_since(&engine->looks, since_mono_us);
}

void engine_on_facts(struct engine *engine, void (*on_facts)(void *data), void *data)
{
    engine->on_facts = on_facts;
    engine->on_facts_data = data;
}

/* ---- life ------------------------------------------------------------------------------ */

void engine_destroy(struct engine *engine)
{
    struct engine_run *run;

    if (engine == NULL)
        return;
    loop_undefer(engine->loop, &engine->chores);
    while ((run = LIST_FIRST(&engine->runs)) != NULL) {
        curl_loop_remove(&engine->curl, &run->job);
        free_run(run);
    }
    looks_finish(&engine->looks);
    curl_loop_finish(&engine->curl);
    free(engine->url);
    secret_free(engine->authorization);
    free(engine);
}

/* A URL with an `@` may hold a password: it is not repeated. */
static int refuse_url(const char *url, struct error *err)
{
    if (strchr(url, '@') != NULL)
        return error_set(err, DRV_EINVAL,
                         "the engine's URL holds credentials: use --engine-key-file");
    return error_set(err, DRV_EINVAL, "\"%s\" is not http://HOST:PORT", url);
}

static bool has_part(CURLU *parts, CURLUPart part)
{
    char *value = NULL;
    bool has = curl_url_get(parts, part, &value, 0) == CURLUE_OK;

    curl_free(value);
    return has;
}

static bool is_engine_url(const char *url)
{
    CURLU *parts = curl_url();
    char *scheme = NULL;
    bool fits = parts != NULL && curl_url_set(parts, CURLUPART_URL, url, 0) == CURLUE_OK &&
                curl_url_get(parts, CURLUPART_SCHEME, &scheme, 0) == CURLUE_OK &&
                (strcmp(scheme, "http") == 0 || strcmp(scheme, "https") == 0) &&
                !has_part(parts, CURLUPART_QUERY) && !has_part(parts, CURLUPART_FRAGMENT) &&
                !has_part(parts, CURLUPART_USER) && !has_part(parts, CURLUPART_PASSWORD);

    curl_free(scheme);
    curl_url_cleanup(parts);
    return fits;
}

int engine_check_url(const char *url, struct error *err)
{
    return strlen(url) > URL_MAX_BYTES || !is_engine_url(url) ? refuse_url(url, err) : 0;
}

/* "http://HOST:PORT[/PREFIX]" without what people copy along: a slash or /v1 at the end. */
static int clean_url(char **out, const char *url, struct error *err)
{
    size_t n = strlen(url);
    int rc = engine_check_url(url, err);

    *out = NULL;
    if (rc != 0)
        return rc;
    while (n > 0 && url[n - 1] == '/')
        n--;
    if (n > 3 && memcmp(url + n - 3, "/v1", 3) == 0)
        n -= 3;
    while (n > 0 && url[n - 1] == '/')
        n--;
    *out = strndup(url, n);
    return *out == NULL ? error_set(err, DRV_ENOMEM, "out of memory") : 0;
}

/* The header line that proves the key in the first line of the file. */
static int read_key(char **out, const char *path, struct error *err)
{
    char text[KEY_FILE_BYTES];
    size_t n, line_bytes;
    int rc = secret_read(text, sizeof(text), path, err);

    if (rc != 0)
        return error_wrap(err, rc, "%s", path);
    n = strcspn(text, "\r\n");
    text[n] = '\0';
    if (n == 0) {
        rc = error_set(err, DRV_EINVAL, "%s: the first line is empty", path);
    } else if (n > MAX_KEY_BYTES) {
        rc = error_set(err, DRV_EINVAL, "%s: the key is longer than %d bytes", path,
                       MAX_KEY_BYTES);
    } else if (!headers_value_ok(text)) {
        rc = error_set(err, DRV_EINVAL, "%s: the first line is not a key", path);
    } else {
        line_bytes = strlen(AUTHORIZATION) + n + 1;
        *out = malloc(line_bytes);
        if (*out == NULL)
            rc = error_set(err, DRV_ENOMEM, "out of memory");
        else
            (void)snprintf(*out, line_bytes, AUTHORIZATION "%.*s", (int)n, text);
    }
    explicit_bzero(text, sizeof(text));
    return rc;
}

static void prepare_look(void *data, CURL *easy, const char *path)
{
    set_common(data, easy, path);
}

static void list_busy(void *data, struct detector *detector)
{
    struct engine *engine = data;
    struct engine_run *run;

    detect_none_busy(detector);
    LIST_FOREACH(run, &engine->runs, link) {
        if (!run->cancelled)
            detect_busy(detector, run->model);
    }
}

static void on_facts(void *data)
{
    struct engine *engine = data;

    if (engine->on_facts != NULL)
        engine->on_facts(engine->on_facts_data);
}

static int start_looks(struct engine *engine, struct error *err)
{
    struct looks_config config = {.loop = engine->loop,
                                  .curl = &engine->curl,
                                  .authorization = engine->authorization,
                                  .idle_us = engine->config.look_every_s * US_PER_S,
                                  .prepare = prepare_look,
                                  .list_busy = list_busy,
                                  .on_facts = on_facts,
                                  .data = engine};

    if (looks_init(&engine->looks, &config) != 0)
        return error_set(err, DRV_ENOMEM, "out of memory");
    return 0;
}

/* A file that holds no certificate would show only as "cannot connect". */
static int check_ca(const char *path, struct error *err)
{
    SSL_CTX *context = SSL_CTX_new(TLS_client_method());
    int rc = 0;

    if (context == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    if (access(path, R_OK) != 0)
        rc = error_wrap(err, error_sys(err, "access"), "--engine-ca %s", path);
    else if (SSL_CTX_load_verify_locations(context, path, NULL) != 1)
        rc = error_set(err, DRV_EINVAL, "--engine-ca %s: no certificate in PEM in it", path);
    SSL_CTX_free(context);
    return rc;
}

int engine_create(struct engine **out, struct loop *loop, const struct engine_config *config,
                  struct error *err)
{
    struct engine *engine = calloc(1, sizeof(*engine));
    int rc;

    *out = NULL;
    if (engine == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    engine->loop = loop;
    engine->config = *config;
    LIST_INIT(&engine->runs);
    (void)curl_global_init(CURL_GLOBAL_DEFAULT);
    rc = clean_url(&engine->url, config->url, err);
    if (rc == 0)
        detect_init(&engine->looks.detector, engine->url, &engine->config.offer);
    if (rc == 0 && config->key_file != NULL)
        rc = read_key(&engine->authorization, config->key_file, err);
    if (rc == 0 && config->ca_file != NULL)
        rc = check_ca(config->ca_file, err);
    if (rc == 0)
        rc = curl_loop_init(&engine->curl, loop, err);
    if (rc == 0)
        rc = start_looks(engine, err);
    if (rc != 0) {
        engine_destroy(engine);
        return rc;
    }
    *out = engine;
    return 0;
}
