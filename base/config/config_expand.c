/* config_expand.c - what stands in a configuration for something else. */
#include "base/config/config_expand.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/config/config_doc.h"
#include "base/config/file_path.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/text/buf.h"

#define NAME_BYTES 128 /* of a variable, with NUL */

enum place_kind {
    PLACE_NONE = 0,
    PLACE_PATH,
    PLACE_OUTPUT,  /* a path, or "-" */
    PLACE_ADDRESS, /* HOST:PORT, or unix:PATH */
};

static const struct {
    const char *pattern; /* of doc_pattern() */
    enum place_kind kind;
} places[] = {
    {"runtime_dir", PLACE_PATH},        {"state_dir", PLACE_PATH},
    {"node_token_file", PLACE_PATH},    {"registry.token_file", PLACE_PATH},
    {"api.keys_file", PLACE_PATH},      {"log.file", PLACE_PATH},
    {"log.access", PLACE_OUTPUT},       {"api.listen", PLACE_ADDRESS},
    {"admin.listen", PLACE_ADDRESS},    {"registry.listen", PLACE_ADDRESS},
    {"nodes[].address", PLACE_ADDRESS}, {"api.tls.cert", PLACE_PATH},
    {"api.tls.key", PLACE_PATH},        {"api.tls.ca", PLACE_PATH},
    {"admin.tls.cert", PLACE_PATH},     {"admin.tls.key", PLACE_PATH},
    {"admin.tls.ca", PLACE_PATH},       {"registry.tls.cert", PLACE_PATH},
    {"registry.tls.key", PLACE_PATH},   {"registry.tls.ca", PLACE_PATH},
    {"nodes[].tls.cert", PLACE_PATH},   {"nodes[].tls.key", PLACE_PATH},
    {"nodes[].tls.ca", PLACE_PATH},
};

/* Adds the value of the variable that begins after "${" at `at`; *end is behind its '}'. */
static int add_variable(struct buf *out, const char *at, const char **end,
                        const struct doc *doc, const struct doc_item *item, struct error *err)
{
    size_t n = strspn(at, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_");
    char name[NAME_BYTES];
    const char *value;

    if (n == 0 || n >= sizeof(name) || at[n] != '}' || strchr("0123456789", at[0]) != NULL)
        return doc_fail(
            doc, item, err,
            "'${' begins the name of a variable: ${NAME}, of letters, digits and _; "
            "write $${ for a text with ${ in it");
    memcpy(name, at, n);
    name[n] = '\0';
    value = getenv(name);
    if (value == NULL)
        return doc_fail(doc, item, err, "the variable %s is not set in drover's environment",
                        name);
    buf_str(out, value);
    *end = at + n + 1;
    return 0;
}

static int expand_variables(const struct doc *doc, struct doc_item *item, struct error *err)
{
    struct buf text = BUF_INIT;
    const char *at = item->text, *dollar;
    bool secret = false;
    int rc = 0;

    while (rc == 0 && (dollar = strchr(at, '$')) != NULL) {
        buf_add(&text, at, (size_t)(dollar - at));
        if (strncmp(dollar, "$${", 3) == 0) {
            buf_str(&text, "${");
            at = dollar + 3;
        } else if (dollar[1] == '{') {
            secret = true;
            rc = add_variable(&text, dollar + 2, &at, doc, item, err);
        } else {
            buf_str(&text, "$");
            at = dollar + 1;
        }
    }
    buf_str(&text, at);
    if (rc == 0 && secret && buf_size(&text) == 0)
        rc = doc_fail(doc, item, err, "the value is missing: %.80s is empty", item->text);
    if (rc == 0)
        rc = doc_replace(doc, item, buf_cstr(&text), secret, err);
    if (rc == 0 && text.failed)
        rc = error_set(err, DRV_ENOMEM, "out of memory");
    if (buf_size(&text) != 0)
        explicit_bzero(buf_head(&text), buf_size(&text));
    buf_finish(&text);
    return rc;
}

int config_expand_variables(struct doc *doc, struct error *err)
{
    int rc = 0;

    for (struct doc_item *item = doc->root; item != NULL && rc == 0; item = doc_next(item)) {
        if (item->kind == DOC_SCALAR && strstr(item->text, "${") != NULL)
            rc = expand_variables(doc, item, err);
    }
    return rc;
}

static int expand_path(const struct doc *doc, struct doc_item *item, const char *base,
                       const char *prefix, struct error *err)
{
    char path[FILE_PATH_BYTES];
    size_t n = strlen(prefix);
    struct error why;

    (void)strlcpy(path, prefix, sizeof(path));
    if (file_path(path + n, sizeof(path) - n, base, item->text + n, &why) != 0)
        return doc_fail(doc, item, err, "%s", why.text);
    return strcmp(path, item->text) == 0 ? 0 : doc_replace(doc, item, path, false, err);
}

/* Is the `tls` block beside an address in force? */
static bool has_tls(const struct doc_item *address)
{
    const struct doc_item *tls = doc_get(address->parent, "tls");
    const struct doc_item *enabled = doc_get(tls, "enabled");

    return tls != NULL && (enabled == NULL || strcmp(enabled->text, "true") == 0);
}

static int expand_address(const struct doc *doc, struct doc_item *item, const char *base,
                          struct error *err)
{
    char address[DOC_TEXT_MAX + 1];
    struct error why;

    if (strncmp(item->text, "unix:", 5) == 0)
        return expand_path(doc, item, base, "unix:", err);
    if (net_take_url(address, sizeof(address), item->text, has_tls(item), &why) != 0) {
        if (item->written != NULL)
            return doc_fail(doc, item, err, "'%.80s' is a URL; HOST:PORT is wanted",
                            item->written);
        return doc_fail(doc, item, err, "%s", why.text); /* there may be a password in it */
    }
    return strcmp(address, item->text) == 0 ? 0 : doc_replace(doc, item, address, false, err);
}

static enum place_kind kind_of(const struct doc_item *item)
{
    char pattern[DOC_PATTERN_BYTES];

    doc_pattern(pattern, item);
    for (size_t i = 0; i < ARRAY_LEN(places); i++) {
        if (strcmp(places[i].pattern, pattern) == 0)
            return places[i].kind;
    }
    return PLACE_NONE;
}

int config_expand_places(struct doc *doc, struct error *err)
{
    char base[FILE_PATH_BYTES];
    int rc = file_path_base(base, sizeof(base), doc->name, err);

    if (rc != 0)
        return error_wrap(err, rc, "%s", doc->name);
    for (struct doc_item *item = doc->root; item != NULL && rc == 0; item = doc_next(item)) {
        if (item->kind != DOC_SCALAR)
            continue;
        switch (kind_of(item)) {
        case PLACE_NONE:
            break;
        case PLACE_OUTPUT:
            if (strcmp(item->text, "-") != 0)
                rc = expand_path(doc, item, base, "", err);
            break;
        case PLACE_PATH:
            rc = expand_path(doc, item, base, "", err);
            break;
        case PLACE_ADDRESS:
            rc = expand_address(doc, item, base, err);
            break;
        }
    }
    return rc;
}

int config_expand_path(struct doc *doc, struct doc_item *item, struct error *err)
{
    char base[FILE_PATH_BYTES];
    int rc = file_path_base(base, sizeof(base), doc->name, err);

    if (rc == 0 && strstr(item->text, "${") != NULL)
        rc = expand_variables(doc, item, err);
    return rc == 0 ? expand_path(doc, item, base, "", err) : rc;
}
