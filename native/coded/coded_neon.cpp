#define POCKETVLM_ISA neon
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
