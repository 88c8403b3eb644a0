/* test_operations.c - every operation of the wire has a row and the right class. */
#include <criterion/criterion.h>
#include <ctype.h>
#include <limits.h>
#include <string.h>
#include <strings.h>

#include "base/attrs.h"
#include "base/kinds.h"
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
    static const int questions[] = {OP(COUNT_TOKENS), OP(OLLAMA_SHOW)};
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
    static const int others[] = {OP(EMBEDDINGS), OP(RERANK), OP(TRANSCRIPTIONS),
                                 OP(OLLAMA_EMBED), OP(OLLAMA_EMBEDDINGS)};

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
    static const int numbers[] = {INT_MIN, -1, 0, 31, 32, INT_MAX};

    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        cr_expect_null(operation_name(numbers[i]));
        cr_expect_not(operation_is_question(numbers[i]));
    }
}
