/*
 * json.c - reading and editing JSON text: what json_check() lets pass can be walked, decoded
 * and edited, and stays JSON.
 *
 * Input: a byte that chooses the edits, then the text.
 */
#include "base/text/json.h"

#include "base/attrs.h"
#include "base/error.h"
#include "base/text/buf.h"
#include "tests/fuzz/fuzz.h"

/* Decodes what is a string, and quotes it again: the same text then. */
static void look(const struct json_value *value)
{
    struct buf plain = BUF_INIT, quoted = BUF_INIT, again = BUF_INIT;
    struct json_value root;
    double number;
    uint64_t integer;
    char name[64];

    if (json_name(name, sizeof(name), value))
        MUST(json_equal(value, name) && strlen(name) < sizeof(name));
    if (json_uint(&integer, value, 1000000))
        MUST(integer <= 1000000);
    if (json_number(&number, value))
        MUST(value->type == JSON_NUMBER);
    if (value->type != JSON_STRING)
        return;
    json_decode(&plain, value);
    json_quote(&quoted, buf_head(&plain), buf_size(&plain));
    MUST(json_check(&root, buf_head(&quoted), buf_size(&quoted), NULL) == 0);
    MUST(root.type == JSON_STRING && root.len == buf_size(&quoted));
    json_decode(&again, &root);
    buf_reset(&plain);
    json_decode(&plain, &root);
    MUST(buf_size(&plain) == buf_size(&again));
    buf_finish(&plain);
    buf_finish(&quoted);
    buf_finish(&again);
}

static void walk(const struct json_value *value, unsigned depth)
{
    struct json_value key, member;
    struct json_iter it;

    MUST(depth <= JSON_MAX_DEPTH);
    look(value);
    json_iter_init(&it, value);
    while (json_iter_next(&it, &key, &member)) {
        MUST(member.text >= value->text &&
             member.text + member.len <= value->text + value->len);
        MUST((value->type == JSON_OBJECT) == (key.type == JSON_STRING));
        if (key.type == JSON_STRING)
            look(&key);
        walk(&member, depth + 1);
    }
}

static void edit(const struct json_value *root, uint32_t choice)
{
    static const struct json_edit edits[] = {
        {"model", "\"other\""}, {"stream", "true"}, {"n", NULL}, {"", "[1]"}, {"stop", NULL}};
    size_t n = 1 + choice % ARRAY_LEN(edits);
    struct buf out = BUF_INIT;
    struct json_value changed;
    int rc = json_edit(&out, root, edits, n);

    MUST((rc == 0) == (root->type == JSON_OBJECT));
    if (rc == 0) {
        MUST(json_check(&changed, buf_head(&out), buf_size(&out), NULL) == 0);
        for (size_t i = 0; i < n; i++) {
            struct json_value got = json_get(&changed, edits[i].name);

            if (edits[i].value == NULL)
                MUST(got.type == JSON_NONE);
            else
                MUST(got.len == strlen(edits[i].value) &&
                     memcmp(got.text, edits[i].value, got.len) == 0);
        }
    }
    buf_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    uint32_t choice = input_byte(&in);
    char *text = input_copy(in.at, in.left);
    struct json_value root;
    struct error err = {0};

    if (json_check(&root, text, in.left, &err) == 0) {
        walk(&root, 0);
        edit(&root, choice);
        MUST(json_check_lenient(&root, text, in.left));
    } else {
        MUST(err.text[0] != '\0');
        if (json_check_lenient(&root, text, in.left))
            walk(&root, 0);
    }
    free(text);
    return 0;
}
