/* verify.c - do the certificates and keys that a configuration names load, and fit each other?
 */
#include "master/reload/verify.h"

#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>

#include "base/config/config.h"
#include "base/error.h"

static int fail(struct error *err, const char *where, const char *key, const char *path)
{
    unsigned long code = ERR_peek_error();
    const char *reason = ERR_reason_error_string(code);

    return error_set(err, DRV_EINVAL, "%s.tls.%s '%.160s': %s", where, key, path,
                     reason != NULL ? reason : "cannot be used");
}

static int load(SSL_CTX *ctx, const struct config_tls *tls, const char *where,
                struct error *err)
{
    if (tls->cert != NULL && SSL_CTX_use_certificate_chain_file(ctx, tls->cert) != 1)
        return fail(err, where, "cert", tls->cert);
    /* Also compares the key with the certificate. */
    if (tls->key != NULL && SSL_CTX_use_PrivateKey_file(ctx, tls->key, SSL_FILETYPE_PEM) != 1)
        return fail(err, where, "key", tls->key);
    if (tls->ca != NULL && SSL_CTX_load_verify_locations(ctx, tls->ca, NULL) != 1)
        return fail(err, where, "ca", tls->ca);
    return 0;
}

static int verify_one(const struct config_tls *tls, const char *where, struct error *err)
{
    SSL_CTX *ctx;
    int rc;

    if (!tls->enabled)
        return 0;
    ERR_clear_error();
    ctx = SSL_CTX_new(TLS_method());
    if (ctx == NULL)
        return error_set(err, DRV_ENOMEM, "out of memory");
    rc = load(ctx, tls, where, err);
    SSL_CTX_free(ctx);
    return rc;
}

int verify_tls(const struct config *config, struct error *err)
{
    char where[32];
    int rc;

    rc = verify_one(&config->api.tls, "api", err);
    if (rc == 0)
        rc = verify_one(&config->admin.tls, "admin", err);
    if (rc == 0)
        rc = verify_one(&config->registry.listen.tls, "registry", err);
    for (unsigned i = 0; i < config->nodes_count && rc == 0; i++) {
        (void)snprintf(where, sizeof(where), "nodes[%u]", i);
        rc = verify_one(&config->nodes[i].tls, where, err);
    }
    return rc;
}
