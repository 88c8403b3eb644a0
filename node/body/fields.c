/* fields.c - a JSON object under construction. */
#include "node/body/fields.h"

#include <stdlib.h>
#include <string.h>

void fields_finish(struct fields *f)
{
    for (size_t i = 0; i < f->count; i++) {
        buf_finish(&f->list[i].name);
        buf_finish(&f->list[i].value);
    }
    free(f->list);
    memset(f, 0, sizeof(*f));
}

/* Engines spell their own names the same way each time: comparing the text is enough. */
struct field *fields_find(const struct fields *f, const struct json_value *name)
{
    for (size_t i = 0; i < f->count; i++)
        if (buf_size(&f->list[i].name) == name->len &&
            memcmp(buf_head(&f->list[i].name), name->text, name->len) == 0)
            return &f->list[i];
    return NULL;
}

struct field *fields_find_str(const struct fields *f, const char *name)
{
    size_t n = strlen(name);

    for (size_t i = 0; i < f->count; i++)
        if (buf_size(&f->list[i].name) == n + 2 &&
            memcmp(buf_head(&f->list[i].name) + 1, name, n) == 0)
            return &f->list[i];
    return NULL;
}

static struct field *add(struct fields *f, const char *name, size_t n)
{
    struct field *field;

    if (f->count == f->cap) {
        size_t cap = f->cap == 0 ? 8 : f->cap * 2;
        struct field *grown =
            f->count >= FIELDS_MAX ? NULL : realloc(f->list, cap * sizeof(*grown));

        if (grown == NULL) {
            f->failed = true;
            return NULL;
        }
        f->list = grown;
        f->cap = cap;
    }
    field = &f->list[f->count];
    memset(field, 0, sizeof(*field));
    buf_add(&field->name, name, n);
    if (field->name.failed) {
        f->failed = true;
        return NULL;
    }
    f->count++;
    return field;
}

/* The member, made empty and of this kind if it was anything else. */
static struct field *want(struct fields *f, const char *name, size_t n, enum field_kind kind)
{
    struct json_value key = {.type = JSON_STRING, .text = name, .len = n};
    struct field *field = fields_find(f, &key);

    if (field == NULL)
        field = add(f, name, n);
    if (field != NULL && field->kind != kind) {
        field->kind = kind;
        buf_reset(&field->value);
    }
    return field;
}

static void append(struct fields *f, struct field *field, const void *bytes, size_t n)
{
    buf_add(&field->value, bytes, n);
    f->failed |= field->value.failed;
}

void fields_set(struct fields *f, const struct json_value *name, const struct json_value *value)
{
    struct field *field = want(f, name->text, name->len, FIELD_RAW);

    if (field == NULL)
        return;
    buf_reset(&field->value);
    append(f, field, value->text, value->len);
}

void fields_set_str(struct fields *f, const char *name, const char *json)
{
    struct buf quoted = BUF_INIT;
    struct field *field;

    json_quote_str(&quoted, name);
    field = want(f, (const char *)buf_head(&quoted), buf_size(&quoted), FIELD_RAW);
    if (field != NULL) {
        buf_reset(&field->value);
        append(f, field, json, strlen(json));
    }
    f->failed |= quoted.failed;
    buf_finish(&quoted);
}

void fields_append(struct fields *f, const struct json_value *name,
                   const struct json_value *string)
{
    struct field *field = want(f, name->text, name->len, FIELD_STRING);

    if (field != NULL)
        append(f, field, string->text + 1, string->len - 2);
}

void fields_extend(struct fields *f, const struct json_value *name,
                   const struct json_value *array)
{
    struct field *field = want(f, name->text, name->len, FIELD_ARRAY);
    struct json_value key, item;
    struct json_iter it;

    if (field == NULL)
        return;
    json_iter_init(&it, array);
    while (json_iter_next(&it, &key, &item)) {
        if (buf_size(&field->value) != 0)
            append(f, field, ",", 1);
        append(f, field, item.text, item.len);
    }
}

void fields_merge(struct fields *f, const struct json_value *object)
{
    struct json_value key, value;
    struct json_iter it;

    json_iter_init(&it, object);
    while (json_iter_next(&it, &key, &value))
        fields_set(f, &key, &value);
}

void field_write(const struct field *field, struct buf *out)
{
    static const char *const open[] = {"", "\"", "["};
    static const char *const close[] = {"", "\"", "]"};

    buf_add(out, buf_head(&field->name), buf_size(&field->name));
    buf_add(out, ":", 1);
    buf_str(out, open[field->kind]);
    if (buf_size(&field->value) != 0)
        buf_add(out, buf_head(&field->value), buf_size(&field->value));
    buf_str(out, close[field->kind]);
}

bool fields_write(const struct fields *f, struct buf *out, const char *except)
{
    const struct field *skip = except == NULL ? NULL : fields_find_str(f, except);
    bool some = false;

    for (size_t i = 0; i < f->count; i++) {
        if (&f->list[i] == skip)
            continue;
        if (some)
            buf_add(out, ",", 1);
        field_write(&f->list[i], out);
        some = true;
    }
    return some;
}
