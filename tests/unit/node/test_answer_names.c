/* test_answer_names.c - which names an answer may have. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <string.h>

#include "base/text/buf.h"
#include "base/text/json.h"
#include "node/answer/answer_names.h"
#include "node/engine/facts.h"

static struct engine_facts facts;
static struct answer_names names;

static void has_models(void)
{
    memset(&facts, 0, sizeof(facts));
    cr_assert_not_null(facts_add_model(&facts, "/m/Qwen3.gguf", 0));
    facts_add_alias(&facts, 0, "Qwen3");
    cr_assert_not_null(facts_add_model(&facts, "other", 0));
    answer_names_forget(&names);
}

static bool expects(const char *model, const char *sent, const char *answered)
{
    return answer_names_expect(&names, &facts, model, sent, answered);
}

static const char *name_in(const char *text)
{
    static char out[32];
    struct json_value root;

    cr_assert_eq(json_check(&root, text, strlen(text), NULL), 0);
    answer_names_read(out, sizeof(out), &root);
    return out;
}

Test(answer_names, the_name_is_found_on_every_surface)
{
    cr_assert_str_eq(name_in("{\"id\":\"1\",\"model\":\"a\"}"), "a");
    cr_assert_str_eq(name_in("{\"type\":\"message_start\",\"message\":{\"model\":\"a\"}}"),
                     "a");
    cr_assert_str_eq(name_in("{\"type\":\"response.created\",\"response\":{\"model\":\"a\"}}"),
                     "a");
    cr_assert_str_eq(name_in("{\"model\":\"a\",\"message\":{\"role\":\"assistant\"}}"), "a");
    cr_assert_str_eq(name_in("{\"choices\":[]}"), "");
    cr_assert_str_eq(name_in("{\"model\":null,\"response\":\"text\"}"), "");
    cr_assert_str_eq(name_in("{\"model\":\"longer than any name of a model may be\"}"), "");
    cr_assert_str_eq(name_in("[]"), "");
}

static const char *renamed(const char *raw, const char *json)
{
    static char out[160];
    struct buf named = BUF_INIT;
    struct json_value root;

    cr_assert_eq(json_check(&root, json, strlen(json), NULL), 0);
    answer_names_replace(&named, raw, strlen(raw), &root, "a\"b");
    cr_assert(!named.failed);
    (void)snprintf(out, sizeof(out), "%s", buf_cstr(&named));
    buf_finish(&named);
    return out;
}

Test(answer_names, a_name_is_replaced_on_every_surface)
{
    static const char event[] =
        "data: {\"id\":\"1\",\"model\":\"long-name\",\"x\":[\"model\"]}\n\n";
    static const char both[] = "{\"response\":{\"model\":\"m\"},\"model\":\"n\"}";
    static const char message[] = "{\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}";
    static const char none[] = "{\"model\":null,\"message\":{\"content\":\"model\"}}";
    char data[96];
    struct buf named = BUF_INIT;
    struct json_value root;

    (void)snprintf(data, sizeof(data), "%.*s", (int)strlen(event) - 8, event + 6);
    cr_assert_eq(json_check(&root, event + 6, strlen(event) - 8, NULL), 0);
    answer_names_replace(&named, event, strlen(event), &root, "c");
    cr_assert_str_eq(buf_cstr(&named),
                     "data: {\"id\":\"1\",\"model\":\"c\",\"x\":[\"model\"]}\n\n");
    buf_finish(&named);
    cr_assert_str_eq(renamed(data, data),
                     "{\"id\":\"1\",\"model\":\"a\\\"b\",\"x\":[\"model\"]}");
    cr_assert_str_eq(renamed(both, both),
                     "{\"response\":{\"model\":\"a\\\"b\"},\"model\":\"a\\\"b\"}");
    cr_assert_str_eq(renamed(message, message),
                     "{\"type\":\"message_start\",\"message\":{\"model\":\"a\\\"b\"}}");
    cr_assert_str_eq(renamed(none, none), none);
    cr_assert_str_eq(renamed("elsewhere", both), "elsewhere", "the name is not in these bytes");
}

Test(answer_names, the_asked_name_and_its_aliases_are_expected)
{
    has_models();
    cr_assert(expects("Qwen3", "Qwen3", "Qwen3"));
    cr_assert(expects("Qwen3", "Qwen3", "qwen3"));
    cr_assert(expects("Qwen3", "Qwen3", "/m/Qwen3.gguf"));
    cr_assert(expects("/m/Qwen3.gguf", "", "Qwen3"));
    cr_assert(expects("Qwen3", "engine-name", "engine-name"));
    cr_assert(expects("Qwen3", "Qwen3", ""));
    cr_assert(expects("", "", "anything"));
    cr_assert_not(expects("Qwen3", "Qwen3", "other"));
    cr_assert_not(expects("other", "other", "Qwen3"));
    cr_assert_not(expects("Qwen3", "Qwen3", "Qwen3-2025-01-01"));
}

Test(answer_names, a_learned_name_is_expected_of_its_model_alone)
{
    has_models();
    answer_names_learn(&names, "Qwen3", "Qwen3-2025-01-01");
    cr_assert(expects("Qwen3", "Qwen3", "Qwen3-2025-01-01"));
    cr_assert_not(expects("other", "other", "Qwen3-2025-01-01"));
    cr_assert_not(expects("Qwen3", "Qwen3", "Qwen3-2025-01-02"));
    answer_names_forget(&names);
    cr_assert_not(expects("Qwen3", "Qwen3", "Qwen3-2025-01-01"));
}

Test(answer_names, a_model_whose_names_vary_may_have_any)
{
    char name[32];

    has_models();
    for (unsigned i = 0; i < ANSWER_NAMES_VARY; i++) {
        (void)snprintf(name, sizeof(name), "provider-%u", i);
        cr_assert_not(expects("other", "other", name));
        answer_names_learn(&names, "other", name);
    }
    cr_assert(expects("other", "other", "provider-new"));
    cr_assert_not(expects("Qwen3", "Qwen3", "provider-new"));
}

Test(answer_names, the_oldest_name_is_forgotten_when_there_are_too_many)
{
    char model[32];

    has_models();
    for (unsigned i = 0; i <= ANSWER_NAMES_MAX; i++) {
        (void)snprintf(model, sizeof(model), "m-%u", i);
        answer_names_learn(&names, model, "x");
    }
    cr_assert_not(expects("m-0", "", "x"));
    cr_assert(expects("m-1", "", "x"));
    cr_assert(expects(model, "", "x"));
}
