/* config_check.c - what must hold of a configuration beyond the type and range of each value.
 */
#include "base/config/config_check.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/config/config.h"
#include "base/config/config_doc.h"
#include "base/config/config_schema.h"
#include "base/error.h"
#include "base/io/net.h"
#include "base/secure/origins.h"
#include "base/secure/proxies.h"
#include "base/secure/tokens.h"

#define NAME_MAX_CHARS    63  /* of a node */
#define MODEL_MAX_BYTES   255 /* of a model or alias; the scoreboard's row has 256 with NUL */
#define LIST_MAX          1024
#define RUNTIME_MAX_BYTES 90 /* leaves room for "/control.sock" in a Unix address */
#define STATE_MAX_BYTES   1000
#define TOKEN_FILE_BYTES  4096
#define KEYS_FILE_BYTES   65536

static int check_listen(const char *address, const struct doc *doc, const char *path,
                        struct error *err)
{
    const struct doc_item *item = doc_near(doc, path);
    struct error why;
    struct net_addr addr;
    char host[256];
    uint16_t port;
    int rc;

    if (address == NULL)
        return 0;
    if (strncmp(address, "unix:", 5) == 0)
        rc = net_parse(&addr, address, &why);
    else
        rc = net_split(address, host, sizeof(host), &port, &why);
    if (rc != 0)
        return doc_fail(doc, item, err, "bad address '%.80s': %s", doc_shown(item, address),
                        why.text);
    return 0;
}

/* A file we will have to open later.  Opening it is the only honest test. */
static int check_readable(const struct doc *doc, const struct doc_item *item, const char *path,
                          struct error *err)
{
    struct stat st;
    int fd;

    if (path == NULL)
        return 0;
    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd == -1)
        return doc_fail(doc, item, err, "cannot read '%.120s': %s", doc_shown(item, path),
                        strerror(errno));
    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        (void)close(fd);
        return doc_fail(doc, item, err, "'%.120s' is not a file", doc_shown(item, path));
    }
    (void)close(fd);
    return 0;
}

/* `block` is the "tls" item, NULL when the file has none. */
static int check_tls(struct config_tls *tls, const struct doc *doc,
                     const struct doc_item *block, bool server, struct error *err)
{
    int rc;

    if (block == NULL)
        return 0;
    if (doc_get(block, "enabled") == NULL)
        tls->enabled = true;
    if (!tls->enabled)
        return 0;
    if (tls->cert != NULL && tls->key == NULL)
        return doc_fail(doc, doc_get(block, "cert"), err, "a certificate needs its 'key' too");
    if (tls->key != NULL && tls->cert == NULL)
        return doc_fail(doc, doc_get(block, "key"), err, "a key needs its 'cert' too");
    if (server && tls->cert == NULL)
        return doc_fail(doc, block, err, "a server needs 'cert' and 'key'");
    rc = check_readable(doc, doc_get(block, "cert"), tls->cert, err);
    if (rc == 0)
        rc = check_readable(doc, doc_get(block, "key"), tls->key, err);
    if (rc == 0)
        rc = check_readable(doc, doc_get(block, "ca"), tls->ca, err);
    return rc;
}

static bool node_name_good(const char *name)
{
    size_t n = strlen(name);

    return n >= 1 && n <= NAME_MAX_CHARS &&
           strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-") ==
               n;
}

static int check_node(struct config *config, unsigned index, const struct doc *doc,
                      const struct doc_item *item, struct error *err)
{
    struct config_node *node = &config->nodes[index];
    const struct doc_item *address = doc_get(item, "address"), *name = doc_get(item, "name");
    const char *shown = doc_shown(address, node->address);
    struct error why;
    char host[256];
    uint16_t port;

    if (!node_name_good(node->name))
        return doc_fail(doc, name, err, "bad node name '%.80s': 1 to %d of A-Z a-z 0-9 . _ -",
                        doc_shown(name, node->name), NAME_MAX_CHARS);
    if (net_split(node->address, host, sizeof(host), &port, &why) != 0)
        return doc_fail(doc, address, err, "bad address '%.80s': %s", shown, why.text);
    if (port == 0)
        return doc_fail(doc, address, err, "bad address '%.80s': the port cannot be 0", shown);
    for (unsigned i = 0; i < index; i++) {
        if (strcmp(config->nodes[i].name, node->name) == 0)
            return doc_fail(doc, name, err, "nodes[%u] is called '%s' already", i,
                            doc_shown(name, node->name));
        if (strcasecmp(config->nodes[i].address, node->address) == 0)
            return doc_fail(doc, address, err, "nodes[%u] has the address %.80s already", i,
                            shown);
    }
    return check_tls(&node->tls, doc, doc_get(item, "tls"), false, err);
}

static int check_nodes(struct config *config, const struct doc *doc, struct error *err)
{
    const struct doc_item *list = doc_find(doc, "nodes");
    const struct doc_item *item = list == NULL ? NULL : list->first;
    int rc = 0;

    if (config->nodes_count > config->limits.max_nodes)
        return doc_fail(doc, list, err, "%u nodes; limits.max_nodes allows %u",
                        config->nodes_count, config->limits.max_nodes);
    for (unsigned i = 0; i < config->nodes_count && rc == 0 && item != NULL; i++) {
        rc = check_node(config, i, doc, item, err);
        item = item->next;
    }
    return rc;
}

static int check_model_name(const struct doc *doc, const struct doc_item *item,
                            const char *name, struct error *err)
{
    if (strlen(name) > MODEL_MAX_BYTES)
        return doc_fail(doc, item, err, "a model name has at most %d bytes", MODEL_MAX_BYTES);
    return 0;
}

/* How many models the alias of this name has; 0: there is none. */
static unsigned models_of_alias(const struct config *config, const char *name)
{
    unsigned models = 0;

    for (unsigned i = 0; i < config->aliases_count; i++)
        models += strcmp(config->aliases[i].name, name) == 0;
    return models;
}

/* One model of the alias `name`, which has `models` of them. */
static int check_alias_model(const struct config *config, const struct doc *doc,
                             const struct doc_item *model, const char *name, unsigned models,
                             struct error *err)
{
    int rc = check_model_name(doc, model, model->text, err);

    if (rc != 0)
        return rc;
    if (config_is_wildcard(model->text))
        return doc_fail(doc, model, err,
                        "'%.80s' is no model: a '*' is for names that clients send",
                        doc_shown(model, model->text));
    if (strcmp(model->text, name) == 0)
        return models > 1 ? 0
                          : doc_fail(doc, model, err, "'%.80s' is an alias of itself",
                                     doc_shown(model, name));
    if (models_of_alias(config, model->text) != 0)
        return doc_fail(doc, model, err,
                        "'%.80s' is itself an alias; name the model it stands for",
                        doc_shown(model, model->text));
    for (const struct doc_item *other = model->parent->first; models > 1 && other != model;
         other = other->next)
        if (strcmp(other->text, model->text) == 0)
            return doc_fail(doc, model, err, "'%.80s' is in the list already",
                            doc_shown(model, model->text));
    return 0;
}

static int check_alias(const struct config *config, const struct doc *doc,
                       const struct doc_item *item, struct error *err)
{
    const struct doc_item *name = doc_get(item, "name"), *model = doc_get(item, "model");
    const struct doc_item *one = model->kind == DOC_LIST ? model->first : model;
    const char *star = strchr(name->text, '*');
    unsigned models = 0;
    int rc = check_model_name(doc, name, name->text, err);

    if (rc != 0)
        return rc;
    if (star != NULL && star[1] != '\0')
        return doc_fail(doc, name, err, "a '*' may only be the last character");
    for (const struct doc_item *other = item->parent->first; other != item; other = other->next)
        if (strcmp(doc_get(other, "name")->text, name->text) == 0)
            return doc_fail(doc, name, err,
                            "aliases[%u] is called '%.80s' already; one alias can have several "
                            "models: [A, B]",
                            other->index, doc_shown(name, name->text));
    if (model->kind == DOC_LIST)
        for (const struct doc_item *each = one; each != NULL; each = each->next)
            models++;
    for (; one != NULL && rc == 0; one = model->kind == DOC_LIST ? one->next : NULL)
        rc = check_alias_model(config, doc, one, name->text, models, err);
    return rc;
}

static int check_aliases(const struct config *config, const struct doc *doc, struct error *err)
{
    const struct doc_item *list = doc_find(doc, "aliases");
    int rc = 0;

    if (config->aliases_count > LIST_MAX)
        return doc_fail(doc, list, err, "%u models of aliases; at most %d",
                        config->aliases_count, LIST_MAX);
    for (const struct doc_item *item = list == NULL ? NULL : list->first;
         item != NULL && rc == 0; item = item->next)
        rc = check_alias(config, doc, item, err);
    return rc;
}

static int check_models(const struct config *config, const struct doc *doc, struct error *err)
{
    const struct doc_item *list = doc_find(doc, "models");
    unsigned i, j;
    int rc;

    if (config->models_count > LIST_MAX)
        return doc_fail(doc, list, err, "%u models; at most %d", config->models_count,
                        LIST_MAX);
    for (i = 0; i < config->models_count; i++) {
        const struct config_model *model = &config->models[i];
        const struct doc_item *item = doc_at(list, i);
        const struct doc_item *name = doc_get(item, "name");

        rc = check_model_name(doc, name, model->name, err);
        if (rc != 0)
            return rc;
        for (j = 0; j < i; j++) {
            if (strcmp(config->models[j].name, model->name) == 0)
                return doc_fail(doc, name, err, "models[%u] is '%.80s' already", j,
                                doc_shown(name, model->name));
        }
        if (models_of_alias(config, model->name) == 1)
            return doc_fail(doc, name, err, "'%.80s' is an alias; name the model it stands for",
                            doc_shown(name, model->name));
    }
    return 0;
}

/* Reads a file of secrets into `text`, which has room for `cap` bytes, with a NUL at its end.
 * `what` is "a token file"; an error never quotes the content. */
static int read_secrets(char *text, size_t cap, const char *path, const char *what,
                        const struct doc *doc, const struct doc_item *item, struct error *err)
{
    const char *shown = doc_shown(item, path);
    struct stat st;
    ssize_t n;
    int fd, rc = 0;

    fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd == -1)
        return doc_fail(doc, item, err, "cannot read '%.120s': %s", shown, strerror(errno));
    if (fstat(fd, &st) == -1 || !S_ISREG(st.st_mode)) {
        rc = doc_fail(doc, item, err, "'%.120s' is not a file", shown);
        goto out;
    }
    if ((st.st_mode & (S_IROTH | S_IWOTH)) != 0) {
        rc = doc_fail(doc, item, err, "'%.120s' can be read by everyone; chmod 600 it", shown);
        goto out;
    }
    do {
        n = read(fd, text, cap - 1);
    } while (n == -1 && errno == EINTR);
    if (n == -1)
        rc = doc_fail(doc, item, err, "cannot read '%.120s': %s", shown, strerror(errno));
    else if (n == (ssize_t)cap - 1 || memchr(text, '\0', (size_t)n) != NULL)
        rc = doc_fail(doc, item, err, "'%.120s' is not %s", shown, what);
    else
        text[n] = '\0';
out:
    (void)close(fd);
    return rc;
}

static int read_tokens(struct config *config, const char *path, const struct doc *doc,
                       const struct doc_item *item, struct error *err)
{
    char text[TOKEN_FILE_BYTES], tokens[TOKENS_MAX][TOKEN_MAX_BYTES + 1] = {0};
    struct error why = {0};
    int rc = read_secrets(text, sizeof(text), path, "a token file", doc, item, err);

    if (rc == 0 && tokens_parse(tokens, text, &why) != 0)
        rc = doc_fail(doc, item, err, "'%.120s': %s", doc_shown(item, path), why.text);
    for (size_t i = 0; rc == 0 && i < TOKENS_MAX && tokens[i][0] != '\0'; i++) {
        config->tokens[i] = strdup(tokens[i]);
        if (config->tokens[i] == NULL)
            rc = error_set(err, DRV_ENOMEM, "out of memory");
    }
    explicit_bzero(text, sizeof(text));
    explicit_bzero(tokens, sizeof(tokens));
    return rc;
}

static int check_keys(struct config *config, const struct doc *doc, struct error *err)
{
    const struct doc_item *item = doc_find(doc, "api.keys_file");
    const char *path = config->api.keys_file;
    struct error why;
    char *text;
    int rc;

    if (path == NULL)
        return 0;
    text = malloc(KEYS_FILE_BYTES);
    if (text == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = read_secrets(text, KEYS_FILE_BYTES, path, "a keys file", doc, item, err);
    if (rc == 0 && api_keys_parse(&config->api.keys, text, &why) != 0)
        rc = doc_fail(doc, item, err, "'%.120s': %.160s", doc_shown(item, path), why.text);
    explicit_bzero(text, KEYS_FILE_BYTES); /* a key that stands there by mistake */
    free(text);
    return rc;
}

static int check_origins(const struct config_api *api, const struct doc *doc, struct error *err)
{
    const struct doc_item *list = doc_find(doc, "api.cors_origins");
    struct error why;

    for (unsigned i = 0; list != NULL && i < api->cors_origins_count; i++)
        if (origin_pattern_check(api->cors_origins[i], &why) != 0)
            return doc_fail(doc, doc_at(list, i), err, "'%.80s': %.200s",
                            doc_shown(doc_at(list, i), api->cors_origins[i]), why.text);
    return 0;
}

static int check_proxies(const struct config_api *api, const struct doc *doc, struct error *err)
{
    const struct doc_item *list = doc_find(doc, "api.trusted_proxies");
    struct proxy_net net;
    struct error why;

    for (unsigned i = 0; list != NULL && i < api->trusted_proxies_count; i++)
        if (proxy_net_parse(&net, api->trusted_proxies[i], &why) != 0)
            return doc_fail(doc, doc_at(list, i), err, "'%.80s': %.200s",
                            doc_shown(doc_at(list, i), api->trusted_proxies[i]), why.text);
    return 0;
}

static int check_tokens(struct config *config, const struct doc *doc, struct error *err)
{
    const struct config_registry *registry = &config->registry;

    if (registry->listen.address != NULL && registry->token_file == NULL)
        return doc_fail(doc, doc_find(doc, "registry"), err,
                        "'token_file' is missing: nodes that join must prove a token");
    if (registry->token_file != NULL && config->node_token_file != NULL &&
        strcmp(registry->token_file, config->node_token_file) != 0)
        return doc_fail(doc, doc_find(doc, "node_token_file"), err,
                        "differs from registry.token_file; leave it out, that token serves "
                        "both ways");
    if (registry->token_file != NULL)
        return read_tokens(config, registry->token_file, doc,
                           doc_find(doc, "registry.token_file"), err);
    if (config->node_token_file != NULL)
        return read_tokens(config, config->node_token_file, doc,
                           doc_find(doc, "node_token_file"), err);
    return 0;
}

static bool same_listener(const char *a, const char *b)
{
    size_t n;

    if (a == NULL || b == NULL || strcasecmp(a, b) != 0)
        return false;
    n = strlen(a); /* any number of listeners may let the kernel choose */
    return n < 2 || strcmp(a + n - 2, ":0") != 0;
}

/* The listener has no accounts: every client may read the names of models and nodes. */
static int check_admin(const struct config_admin *admin, const struct doc *doc,
                       struct error *err)
{
    if (net_is_local(admin->address) || admin->allow_remote ||
        (admin->tls.enabled && admin->tls.ca != NULL))
        return 0;
    return doc_fail(doc, doc_near(doc, "admin.listen"), err,
                    "other machines can reach %.80s; take a loopback address or unix:/PATH, or "
                    "demand certificates by admin.tls with 'ca', or say allow_remote: true",
                    doc_shown(doc_near(doc, "admin.listen"), admin->address));
}

static int check_listeners(struct config *config, const struct doc *doc, struct error *err)
{
    struct config_api *api = &config->api;
    struct config_listen *registry = &config->registry.listen;
    int rc;

    rc = check_listen(api->address, doc, "api.listen", err);
    if (rc == 0)
        rc = check_listen(config->admin.address, doc, "admin.listen", err);
    if (rc == 0)
        rc = check_listen(registry->address, doc, "registry.listen", err);
    if (rc == 0)
        rc = check_tls(&api->tls, doc, doc_find(doc, "api.tls"), true, err);
    if (rc == 0)
        rc = check_tls(&registry->tls, doc, doc_find(doc, "registry.tls"), true, err);
    if (rc == 0)
        rc = check_tls(&config->admin.tls, doc, doc_find(doc, "admin.tls"), true, err);
    if (rc != 0)
        return rc;
    if (same_listener(api->address, config->admin.address))
        return doc_fail(doc, doc_near(doc, "admin.listen"), err,
                        "%.80s is api.listen's address",
                        doc_shown(doc_near(doc, "admin.listen"), api->address));
    if (same_listener(api->address, registry->address))
        return doc_fail(doc, doc_near(doc, "registry.listen"), err,
                        "%.80s is api.listen's address",
                        doc_shown(doc_near(doc, "registry.listen"), api->address));
    if (same_listener(config->admin.address, registry->address))
        return doc_fail(doc, doc_near(doc, "registry.listen"), err,
                        "%.80s is admin.listen's address",
                        doc_shown(doc_near(doc, "registry.listen"), registry->address));
    return check_admin(&config->admin, doc, err);
}

/* Values that are fine alone and make no sense together. */
static int check_relations(const struct config *config, const struct doc *doc,
                           struct error *err)
{
    const struct config_registry *registry = &config->registry;
    const struct config_limits *limits = &config->limits;

    if (registry->lease_ms < 2 * registry->heartbeat_ms)
        return doc_fail(doc, doc_near(doc, "registry.lease_ms"), err,
                        "lease_ms (%u) is less than twice heartbeat_ms (%u)",
                        registry->lease_ms, registry->heartbeat_ms);
    if (config->health.eject_backoff_max_ms < config->health.eject_backoff_ms)
        return doc_fail(doc, doc_near(doc, "health.eject_backoff_max_ms"), err,
                        "eject_backoff_max_ms (%u) is less than eject_backoff_ms (%u)",
                        config->health.eject_backoff_max_ms, config->health.eject_backoff_ms);
    if (limits->max_body_total_bytes < limits->max_body_bytes)
        return doc_fail(doc, doc_near(doc, "limits.max_body_total_bytes"), err,
                        "max_body_total_bytes (%u) is less than max_body_bytes (%u)",
                        limits->max_body_total_bytes, limits->max_body_bytes);
    if (config->runtime_dir[0] != '/' || strlen(config->runtime_dir) > RUNTIME_MAX_BYTES)
        return doc_fail(doc, doc_near(doc, "runtime_dir"), err,
                        "must be an absolute path of at most %d bytes", RUNTIME_MAX_BYTES);
    if (config->state_dir[0] != '\0' &&
        (config->state_dir[0] != '/' || strlen(config->state_dir) > STATE_MAX_BYTES))
        return doc_fail(doc, doc_near(doc, "state_dir"), err,
                        "must be an absolute path of at most %d bytes", STATE_MAX_BYTES);
    return 0;
}

static int check_user(struct config *config, const struct doc *doc, struct error *err)
{
    const struct doc_item *user = doc_find(doc, "user"), *group = doc_find(doc, "group");
    const struct doc_item *item;
    struct error why;
    int rc;

    if (config->group != NULL && config->user == NULL)
        return doc_fail(doc, doc_find(doc, "group"), err, "a group needs its 'user' too");
    rc = privileges_find(&config->run_as, config->user, config->group, &why);
    if (rc == 0)
        return 0;
    item = rc == DRV_ENOENT && group != NULL ? group : user;
    if ((user != NULL && user->written != NULL) || (group != NULL && group->written != NULL))
        return doc_fail(doc, item, err, "'%.80s' is no user or group that drover can be here",
                        doc_shown(item, item->text));
    return doc_fail(doc, item, err, "%.160s", why.text);
}

/* The checks that need the rights of `user`: everything that opens a file. */
static int check_files(struct config *config, const struct doc *doc, struct error *err)
{
    int rc;

    privileges_borrow(&config->run_as);
    rc = check_listeners(config, doc, err);
    if (rc == 0)
        rc = check_nodes(config, doc, err);
    if (rc == 0)
        rc = check_tokens(config, doc, err);
    if (rc == 0)
        rc = check_keys(config, doc, err);
    privileges_return(&config->run_as);
    return rc;
}

int config_check(struct config *config, const struct doc *doc, struct error *err)
{
    int rc;

    rc = check_user(config, doc, err);
    if (rc == 0)
        rc = check_origins(&config->api, doc, err);
    if (rc == 0)
        rc = check_proxies(&config->api, doc, err);
    if (rc == 0)
        rc = check_files(config, doc, err);
    if (rc == 0)
        rc = check_relations(config, doc, err);
    if (rc == 0)
        rc = check_aliases(config, doc, err);
    if (rc == 0)
        rc = check_models(config, doc, err);
    return rc;
}
