#define POCKETVLM_ISA neondot
#include "coded/coded_kernel.h"
#include "coded/encode_kernel.h"
