/* config.c - configuration files: any text is loaded whole, or refused with a place. */
#include "base/config/config.h"
#include "base/config/config_load.h"

#include "base/error.h"
#include "tests/fuzz/fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char *text = input_copy(data, size);
    struct config *config = NULL;
    struct error err = {0};
    int rc = config_parse(&config, text, size, "fuzz.yaml", &err);

    if (rc == 0) {
        MUST(config->workers >= 1 && config->workers <= 64 && config->api.address != NULL);
        MUST(config_not_reloadable(config, config) == NULL);
        for (unsigned i = 0; i < config->aliases_count; i++) {
            unsigned models = 0;

            MUST(config_find_alias(config, config->aliases[i].name, &models) != NULL);
            MUST(models != 0 && !config_is_wildcard(config->aliases[i].model));
            MUST(config_find_wildcard(config, config->aliases[i].name, &models) == NULL ||
                 models != 0);
        }
        (void)config_policy_for(config, "m");
    } else {
        MUST(config == NULL && strncmp(err.text, "fuzz.yaml", 9) == 0);
        MUST(strchr(err.text, '\n') == NULL);
    }
    config_destroy(config);
    free(text);
    return 0;
}
