/* looks.c - looks at the engine when a look is due. */
#include "node/engine/look/looks.h"

#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/secure/secret.h"
#include "node/engine/headers.h"
#include "node/engine/look/reasons.h"
#include "proto/drover_common.pb-c.h"

#define LOOK_MAX_BYTES    (8 * 1024 * 1024)
#define HEAD_MAX_BYTES    (64 * 1024)
#define FULL_TIMEOUT_MS   2000L
#define LOOK_TIMEOUT_MS   1300L
#define HEALTH_TIMEOUT_MS 1000L /* of /health, which any engine answers at any time */
#define REMOTE_TIMEOUT_MS 5000L

static void plan(struct looks *looks);
static void ask(struct looks *looks, const char *path);

/* Public and of no known kind: perhaps a paid API, which has other clients than us to serve. */
static bool is_remote(const struct looks *looks)
{
    return looks->public_address && !detect_shows_load(&looks->detector);
}

/* ---- one look -------------------------------------------------------------------------- */

static uint32_t most(uint32_t a, uint32_t b)
{
    return a > b ? a : b;
}

static void note_others(struct looks *looks)
{
    const struct engine_facts *facts = &looks->detector.facts;

    if (looks->detector.load_seen)
        looks->others_run = facts->has_load && facts->running > looks->most_runs;
    if (!facts->reachable || facts->loading)
        looks->others_run = false;
}

static void end_look(struct looks *looks, enum look_level level)
{
    struct engine_facts *facts = &looks->detector.facts;

    look_times_ended(&looks->times, level, facts->reachable, looks->began_mono_us,
                     clock_mono_us());
    if (level == LOOK_FULL)
        facts->full_mono_us = looks->began_mono_us;
    /* An engine of which nothing but /health answers may have stopped working. */
    if (level == LOOK_LOAD && facts->reachable && !looks->detector.load_seen &&
        looks->heard_mono_us < looks->began_mono_us)
        look_times_trouble(&looks->times, clock_mono_us());
    looks->config.on_facts(looks->config.data);
    plan(looks);
}

static void take_answer(struct looks *looks, const struct detect_answer *answer)
{
    const char *path = detect_next(&looks->detector, answer);

    if (path != NULL) {
        ask(looks, path);
        return;
    }
    note_others(looks);
    end_look(looks, looks->detector.abandoned ? LOOK_LIGHT : looks->detector.level);
}

static void note_address(struct looks *looks)
{
    const char *address = NULL;

    if (curl_easy_getinfo(looks->job.easy, CURLINFO_PRIMARY_IP, &address) == CURLE_OK &&
        address != NULL && address[0] != '\0')
        looks->public_address = !net_is_private(address);
}

static bool is_refused(CURL *easy, CURLcode code)
{
    long error = 0;

    return code == CURLE_COULDNT_CONNECT &&
           curl_easy_getinfo(easy, CURLINFO_OS_ERRNO, &error) == CURLE_OK &&
           error == ECONNREFUSED;
}

static void on_done(struct curl_job *job, CURLcode code)
{
    struct looks *looks = CONTAINER_OF(job, struct looks, job);
    struct detect_answer answer = {0};
    char why[CURL_ERROR_SIZE + 128];
    long status = 0;

    note_address(looks);
    if (code == CURLE_OK)
        (void)curl_easy_getinfo(job->easy, CURLINFO_RESPONSE_CODE, &status);
    answer.status = (unsigned)status;
    answer.server = looks->server;
    answer.body = buf_head(&looks->body);
    answer.n = buf_size(&looks->body);
    reasons_of_transfer(why, sizeof(why), code, looks->error);
    answer.why = why;
    answer.timed_out = code == CURLE_OPERATION_TIMEDOUT;
    answer.refused = is_refused(job->easy, code);
    if (answer.timed_out && looks->heard_mono_us >= looks->began_mono_us) {
        /* Too busy to be looked at, but answers come: the facts stay. */
        detect_abandon(&looks->detector);
        end_look(looks, LOOK_LIGHT);
        return;
    }
    take_answer(looks, &answer);
}

static size_t on_header(char *line, size_t size, size_t n, void *data)
{
    struct looks *looks = data;
    char name[64], value[64];

    (void)size;
    looks->head_bytes += n;
    if (looks->head_bytes > HEAD_MAX_BYTES)
        return 0; /* libcurl keeps them all */
    if (headers_split(line, n, name, sizeof(name), value, sizeof(value)) &&
        strcmp(name, "server") == 0)
        (void)strlcpy(looks->server, value, sizeof(looks->server));
    return n;
}

static size_t on_bytes(char *bytes, size_t size, size_t n, void *data)
{
    struct looks *looks = data;

    (void)size;
    if (buf_size(&looks->body) + n > LOOK_MAX_BYTES)
        return 0;
    buf_add(&looks->body, bytes, n);
    return looks->body.failed ? 0 : n;
}

static long timeout_ms(const struct looks *looks, const char *path)
{
    if (is_remote(looks))
        return REMOTE_TIMEOUT_MS;
    if (strcmp(path, "/health") == 0)
        return HEALTH_TIMEOUT_MS;
    return looks->detector.level == LOOK_FULL ? FULL_TIMEOUT_MS : LOOK_TIMEOUT_MS;
}

static void ask(struct looks *looks, const char *path)
{
    struct detect_answer none = {.server = "", .why = "out of memory"};

    buf_shrink(&looks->body, 64 * 1024);
    looks->server[0] = '\0';
    looks->head_bytes = 0;
    looks->error[0] = '\0';
    looks->config.prepare(looks->config.data, looks->job.easy, path);
    (void)curl_easy_setopt(looks->job.easy, CURLOPT_TIMEOUT_MS, timeout_ms(looks, path));
    if (curl_loop_add(looks->config.curl, &looks->job) != 0)
        take_answer(looks, &none); /* ends the look: an unanswered /health has no next step */
}

/* ---- when ------------------------------------------------------------------------------ */

static struct look_due next_look(const struct looks *looks)
{
    const struct engine_facts *facts = &looks->detector.facts;
    struct look_facts now = {
        .reachable = facts->reachable,
        .loading = facts->loading,
        .has_models = facts->models_count != 0,
        .shows_load = detect_shows_load(&looks->detector),
        .remote = is_remote(looks),
        .any_model =
            facts->kind == DROVER__V1__ENGINE_KIND__ENGINE_KIND_LLAMA_SERVER && !facts->router,
        .others_run = looks->others_run,
        .runs = looks->runs,
        .busy_mono_us = looks->busy_mono_us,
        .heard_mono_us = looks->heard_mono_us,
    };

    return look_times_next(&looks->times, &now);
}

static void on_due(struct timer *timer)
{
    struct looks *looks = CONTAINER_OF(timer, struct looks, timer);
    struct look_due look = next_look(looks);

    /* Bytes put a look off; the timer does not hear of each. */
    if (look.at_mono_us > clock_mono_us()) {
        plan(looks);
        return;
    }
    looks->began_mono_us = clock_mono_us();
    looks->most_runs = looks->runs;
    looks->config.list_busy(looks->config.data, &looks->detector);
    ask(looks, detect_begin(&looks->detector, look.level, looks->began_mono_us));
}

/* Sets the timer for the look that is due next; a look under way plans when it ends. */
static void plan(struct looks *looks)
{
    uint64_t now_us = clock_mono_us();
    uint64_t at_us;

    if (looks->detector.asking != 0)
        return;
    at_us = next_look(looks).at_mono_us;
    timer_start(looks->config.loop, &looks->timer, at_us > now_us ? at_us - now_us : 0, on_due);
}

/* ---- what happens to runs --------------------------------------------------------------- */

void looks_heard(struct looks *looks)
{
    looks->heard_mono_us = loop_now_us(looks->config.loop);
}

void looks_run_began(struct looks *looks)
{
    looks->runs++;
    looks->most_runs = most(looks->most_runs, looks->runs);
    looks_heard(looks);
    if (looks->runs == 1)
        looks->busy_mono_us = looks->heard_mono_us;
    plan(looks);
}

void looks_run_ended(struct looks *looks, enum looks_run_end end)
{
    looks->runs--;
    if (looks->runs == 0)
        looks->busy_mono_us = 0;
    switch (end) {
    case LOOKS_RUN_ENDED:
        break;
    case LOOKS_RUN_BROKE:
        look_times_trouble(&looks->times, clock_mono_us());
        break;
    case LOOKS_RUN_LEFT:
    case LOOKS_RUN_STOPPED:
        look_times_cancelled(&looks->times, end == LOOKS_RUN_STOPPED, clock_mono_us());
        break;
    }
    plan(looks);
}

bool looks_full_since(const struct looks *looks, uint64_t since_mono_us)
{
    struct look_due look;

    if (looks->detector.asking != 0 && looks->detector.level == LOOK_FULL)
        return looks->began_mono_us >= since_mono_us;
    look = next_look(looks);
    return look.level == LOOK_FULL && look.at_mono_us <= clock_mono_us();
}

void looks_doubt(struct looks *looks)
{
    look_times_trouble(&looks->times, clock_mono_us());
    plan(looks);
}

/* ---- life ------------------------------------------------------------------------------ */

int looks_init(struct looks *looks, const struct looks_config *config)
{
    CURL *easy = curl_easy_init();

    looks->config = *config;
    looks->config.authorization = NULL;
    look_times_init(&looks->times, config->idle_us);
    looks->job.easy = easy;
    looks->job.on_done = on_done;
    if (easy == NULL)
        return DRV_ENOMEM;
    (void)curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, on_header);
    (void)curl_easy_setopt(easy, CURLOPT_HEADERDATA, looks);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, on_bytes);
    (void)curl_easy_setopt(easy, CURLOPT_WRITEDATA, looks);
    (void)curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, looks->error);
    if (config->authorization != NULL) {
        looks->headers = curl_slist_append(NULL, config->authorization);
        if (looks->headers == NULL)
            return DRV_ENOMEM;
        (void)curl_easy_setopt(easy, CURLOPT_HTTPHEADER, looks->headers);
    }
    plan(looks);
    return 0;
}

void looks_finish(struct looks *looks)
{
    if (looks->config.loop != NULL)
        timer_stop(looks->config.loop, &looks->timer);
    if (looks->job.easy != NULL) {
        if (looks->detector.asking != 0)
            curl_loop_remove(looks->config.curl, &looks->job);
        curl_easy_cleanup(looks->job.easy);
    }
    curl_loop_free_headers(looks->headers);
    buf_finish(&looks->body);
}
