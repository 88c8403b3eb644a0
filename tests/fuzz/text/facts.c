/*
 * facts.c - what an engine says about itself and about its failures: recognition from its
 * answers, Prometheus text, error bodies.
 *
 * Input: answers, one after the other: a byte for the status, a byte for the Server header, two
 * bytes of length, the body.  The last body is also read as an error and as metrics.
 */
#include "base/text/json.h"
#include "node/body/reported.h"
#include "node/engine/errors.h"
#include "node/engine/kinds/metrics.h"
#include "node/engine/look/detect.h"
#include "node/report/describe.h"
#include "tests/fuzz/fuzz.h"

static void check_facts(const struct engine_facts *facts)
{
    MUST(facts->models_count <= ENGINE_MAX_MODELS);
    MUST(memchr(facts->version, '\0', sizeof(facts->version)) != NULL);
    MUST(memchr(facts->detail, '\0', sizeof(facts->detail)) != NULL);
    for (uint32_t i = 0; i < facts->models_count; i++) {
        MUST(memchr(facts->models[i].id, '\0', ENGINE_MODEL_BYTES) != NULL);
        MUST(facts->models[i].alias_of <= facts->models_count);
    }
}

static void read_error(const char *body, size_t n)
{
    struct engine_error verdict;
    uint32_t status = 0;
    double value;
    char text[128];

    (void)reported_text(body, n, text, sizeof(text), &status);
    MUST(memchr(text, '\0', sizeof(text)) != NULL);
    for (unsigned http = 400; http < 600; http += 33) {
        engine_error_http(&verdict, http, body, n, (http & 1) != 0);
        MUST(memchr(verdict.text, '\0', sizeof(verdict.text)) != NULL);
    }
    engine_error_event(&verdict, status, body, n);
    if (metrics_sum(body, n, "llamacpp:requests_processing", &value))
        MUST(n != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const unsigned statuses[] = {200, 200, 200, 200, 0, 404, 401, 503};
    static const char *const servers[] = {"", "llama.cpp", "uvicorn", "nginx"};
    static struct describe description;
    struct input in = {data, size};
    static const struct engine_offer offer;
    static struct detector r;
    const char *path;
    unsigned asked = 0;

    detect_init(&r, "http://engine", &offer);
    do {
        path = detect_begin(&r, (enum look_level)(input_byte(&in) % 3), 1);
        while (path != NULL) {
            struct detect_answer answer = {.why = "refused"};
            size_t n;
            char *body;

            answer.status = statuses[input_byte(&in) % 8];
            answer.server = servers[input_byte(&in) % 4];
            n = input_byte(&in) << 8;
            n |= input_byte(&in);
            body = input_copy(input_bytes(&in, n, &n), n);
            answer.body = (const uint8_t *)body;
            answer.n = n;
            path = detect_next(&r, &answer);
            read_error(body, n);
            free(body);
            MUST(++asked < 10000);
        }
        check_facts(&r.facts);
        describe_models(&description, &r.facts);
        MUST(!describe_differs(&r.facts, &r.facts));
    } while (in.left != 0);
    return 0;
}
