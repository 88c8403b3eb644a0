/* test_operations.c - every operation of the wire has a row and the right class. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "base/attrs.h"
#include "base/kinds.h"
#include "base/text/json.h"
#include "proto/drover_common.pb-c.h"
#include "proto/operations.h"

#define OP(name) DROVER__V1__OPERATION__OPERATION_##name

Test(operations, every_operation_of_the_wire_has_a_name_in_the_table)
{
    const ProtobufCEnumDescriptor *wire = &drover__v1__operation__descriptor;

    for (unsigned i = 0; i < wire->n_values; i++) {
        int value = wire->values[i].value;

        if (value == OP(UNSPECIFIED))
            cr_expect_null(operation_name(value));
        else
            cr_expect_eq(
                strcasecmp(operation_name(value), wire->values[i].name + strlen("OPERATION_")),
                0, "%s is %s", wire->values[i].name, operation_name(value));
    }
}

/* ENGINE_KIND_LLAMA_SERVER is "llama-server"; the first of each enum is "unknown". */
static void compare_names(const ProtobufCEnumDescriptor *wire, const char *prefix,
                          const char *name_of(uint32_t value))
{
    char name[64];

    cr_expect_str_eq(name_of(0), "unknown");
    cr_expect_str_eq(name_of(wire->n_values), "unknown");
    for (unsigned i = 1; i < wire->n_values; i++) {
        (void)strlcpy(name, wire->values[i].name + strlen(prefix), sizeof(name));
        for (char *c = name; *c != '\0'; c++)
            *c = *c == '_' ? '-' : (char)tolower((unsigned char)*c);
        cr_expect_str_eq(name_of((uint32_t)wire->values[i].value), name);
    }
}

Test(operations, kinds_of_engines_and_states_of_models_are_named_as_on_the_wire)
{
    compare_names(&drover__v1__engine_kind__descriptor, "ENGINE_KIND_", engine_kind_name);
    compare_names(&drover__v1__model_state__descriptor, "MODEL_STATE_", model_state_name);
}

Test(operations, names_are_unique)
{
    for (int a = 1; operation_name(a) != NULL; a++)
        for (int b = a + 1; operation_name(b) != NULL; b++)
            cr_expect_str_neq(operation_name(a), operation_name(b));
}

Test(operations, only_what_needs_no_run_of_the_model_is_a_question)
{
    static const int questions[] = {OP(COUNT_TOKENS), OP(OLLAMA_SHOW),   OP(INPUT_TOKENS),
                                    OP(TOKENIZE),     OP(DETOKENIZE),    OP(APPLY_TEMPLATE),
                                    OP(PROPS),        OP(LORA_ADAPTERS), OP(STATE)};
    unsigned found = 0;

    for (int op = 1; operation_name(op) != NULL; op++)
        found += operation_is_question(op);
    cr_expect_eq(found, ARRAY_LEN(questions));
    for (size_t i = 0; i < ARRAY_LEN(questions); i++) {
        cr_expect(operation_is_question(questions[i]));
        cr_expect_not(op_class_holds_slot(operation_class(questions[i])));
    }
}

Test(operations, embeddings_rerank_and_audio_hold_a_slot_but_are_no_generation)
{
    static const int others[] = {OP(EMBEDDINGS),
                                 OP(RERANK),
                                 OP(TRANSCRIPTIONS),
                                 OP(OLLAMA_EMBED),
                                 OP(OLLAMA_EMBEDDINGS),
                                 OP(SPEECH),
                                 OP(IMAGES_EDITS),
                                 OP(INFILL),
                                 OP(SCORE)};

    for (size_t i = 0; i < ARRAY_LEN(others); i++) {
        cr_expect_eq(operation_class(others[i]), OP_CLASS_EMBEDDING);
        cr_expect(op_class_holds_slot(operation_class(others[i])));
        cr_expect_lt((int)operation_class(others[i]), OP_CLASSES_LEARNED);
    }
    cr_expect_eq(operation_class(OP(CHAT_COMPLETIONS)), OP_CLASS_GENERATION);
    cr_expect_eq(operation_class(OP(OLLAMA_GENERATE)), OP_CLASS_GENERATION);
}

Test(operations, a_number_that_is_not_known_holds_a_slot_and_has_no_name)
{
    static const int numbers[] = {INT_MIN, -1, 0, 32, 33, INT_MAX};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        cr_expect_null(operation_name(numbers[i]));
        cr_expect_not(operation_is_question(numbers[i]));
    }
}

/* Masks of operations, and the lessons of shm/share/taught.h, have 32 bits. */
Test(operations, every_number_fits_into_a_mask)
{
    cr_assert_null(operation_name(32));
}

Test(operations, a_method_is_taken_only_where_it_means_something)
{
    cr_expect(operation_takes_method(OP(MESSAGES), ""));
    cr_expect(operation_takes_method(OP(MESSAGES), "POST"));
    cr_expect_not(operation_takes_method(OP(MESSAGES), "GET"));
    cr_expect_not(operation_takes_method(OP(MESSAGES), "DELETE"));
    cr_expect(operation_takes_method(OP(PROPS), "GET"));
    cr_expect_not(operation_takes_method(OP(PROPS), ""), "it would change one node of several");
    cr_expect_not(operation_takes_method(OP(LORA_ADAPTERS), "POST"));
    cr_expect(operation_takes_method(OP(STATE), "DELETE"));
    cr_expect(operation_takes_method(OP(STATE), ""));
    cr_expect_not(operation_takes_method(OP(STATE), "PUT"));
    cr_expect(operation_takes_form(OP(IMAGES_EDITS), false));
    cr_expect_not(operation_takes_form(OP(IMAGES_EDITS), true));
    cr_expect(operation_takes_form(OP(TRANSLATIONS), true));
    cr_expect_not(operation_takes_form(OP(SPEECH), false));
}

Test(operations, a_target_leads_nowhere_but_to_what_engines_keep)
{
    static const char *const good[] = {"responses/resp_1",
                                       "responses/resp_1/cancel",
                                       "responses/a.b:c-d/input_items",
                                       "responses/r?stream=true&include[]=a%20b",
                                       "conversations",
                                       "conversations/conv_1/items",
                                       "conversations?"};
    static const char *const bad[] = {
        "",
        "responses",
        "responses/",
        "responses//x",
        "responses/../models",
        "responses/./x",
        "responses/.x",
        "responses/a/..",
        "responses/%2e%2e/x",
        "responses/a b",
        "responses/a\r\nx: y",
        "responses/a#b",
        "responses/a?b\"c",
        "responses/a?b c",
        "completions",
        "/responses/a",
        "conversations/",
        "conversations@host/x",
        "conversationsx",
    };
    char longest[OPERATION_TARGET_BYTES + 2];

    for (size_t i = 0; i < ARRAY_LEN(good); i++)
        cr_expect(operation_target_ok(good[i]), "%s", good[i]);
    for (size_t i = 0; i < ARRAY_LEN(bad); i++)
        cr_expect_not(operation_target_ok(bad[i]), "%s", bad[i]);
    memset(longest, 'a', sizeof(longest));
    memcpy(longest, "responses/", 10);
    longest[OPERATION_TARGET_BYTES] = '\0';
    cr_expect(operation_target_ok(longest));
    longest[OPERATION_TARGET_BYTES] = 'a';
    longest[OPERATION_TARGET_BYTES + 1] = '\0';
    cr_expect_not(operation_target_ok(longest));
}

static bool unloads(int operation, const char *body)
{
    struct json_value root;

    cr_assert_eq(json_check(&root, body, strlen(body), NULL), 0, "%s", body);
    return operation_unloads(operation, &root);
}

Test(operations, a_request_that_only_unloads_is_known)
{
    static const char *const yes[] = {
        "{\"keep_alive\":0}",     "{\"keep_alive\":0,\"prompt\":\"\"}",
        "{\"keep_alive\":\"0\"}", "{\"keep_alive\":\"0s\"}",
        "{\"keep_alive\":0.0}",   "{\"keep_alive\":\"0h0m\",\"prompt\":null}"};
    static const char *const no[] = {"{}",
                                     "{\"keep_alive\":\"5m\"}",
                                     "{\"keep_alive\":-1}",
                                     "{\"keep_alive\":\"\"}",
                                     "{\"keep_alive\":null}",
                                     "{\"keep_alive\":false}",
                                     "{\"keep_alive\":0,\"prompt\":\"x\"}",
                                     "{\"keep_alive\":0.5}"};

    for (size_t i = 0; i < ARRAY_LEN(yes); i++)
        cr_expect(unloads(OP(OLLAMA_GENERATE), yes[i]), "%s", yes[i]);
    for (size_t i = 0; i < ARRAY_LEN(no); i++)
        cr_expect_not(unloads(OP(OLLAMA_GENERATE), no[i]), "%s", no[i]);
    cr_expect(unloads(OP(OLLAMA_CHAT), "{\"keep_alive\":0,\"messages\":[]}"));
    cr_expect_not(unloads(OP(OLLAMA_CHAT), "{\"keep_alive\":0,\"messages\":[{}]}"));
    cr_expect_not(unloads(OP(OLLAMA_EMBED), "{\"keep_alive\":0}"));
}
