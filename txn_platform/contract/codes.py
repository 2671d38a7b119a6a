"""Code lists that the contract refers to, as data: currencies, countries, merchant categories.

Only lists that a standards body keeps. The platform's own lists are in `schema`.
"""

from __future__ import annotations

# ISO 4217, active codes of currencies and funds, without precious metals and test codes.
CURRENCIES = frozenset(
    """
    AED AFN ALL AMD ANG AOA ARS AUD AWG AZN BAM BBD BDT BGN BHD BIF BMD BND BOB BOV BRL BSD BTN BWP
    BYN BZD CAD CDF CHE CHF CHW CLF CLP CNY COP COU CRC CUP CVE CZK DJF DKK DOP DZD EGP ERN ETB EUR
    FJD FKP GBP GEL GHS GIP GMD GNF GTQ GYD HKD HNL HTG HUF IDR ILS INR IQD IRR ISK JMD JOD JPY KES
    KGS KHR KMF KPW KRW KWD KYD KZT LAK LBP LKR LRD LSL LYD MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR
    MWK MXN MXV MYR MZN NAD NGN NIO NOK NPR NZD OMR PAB PEN PGK PHP PKR PLN PYG QAR RON RSD RUB RWF
    SAR SBD SCR SDG SEK SGD SHP SLE SOS SRD SSP STN SVC SYP SZL THB TJS TMT TND TOP TRY TTD TWD TZS
    UAH UGX USD USN UYI UYU UYW UZS VED VES VND VUV WST XAF XCD XCG XOF XPF XSU XUA YER ZAR ZMW ZWG
    """.split()  # noqa: SIM905 - two hundred quotes would hide the codes
)

# Decimals of the currencies whose minor unit is not a hundredth.
_EXPONENTS = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF",
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}

# ISO 4217's exponent of every currency. The funds codes XSU and XUA have none; they get two.
CURRENCY_EXPONENTS = dict.fromkeys(sorted(CURRENCIES), 2) | {
    code: exponent for exponent, codes in _EXPONENTS.items() for code in codes.split()
}

# ISO 3166-1 alpha-2, officially assigned.
COUNTRIES = frozenset(
    """
    AD AE AF AG AI AL AM AO AQ AR AS AT AU AW AX AZ BA BB BD BE BF BG BH BI BJ BL BM BN BO BQ BR BS
    BT BV BW BY BZ CA CC CD CF CG CH CI CK CL CM CN CO CR CU CV CW CX CY CZ DE DJ DK DM DO DZ EC EE
    EG EH ER ES ET FI FJ FK FM FO FR GA GB GD GE GF GG GH GI GL GM GN GP GQ GR GS GT GU GW GY HK HM
    HN HR HT HU ID IE IL IM IN IO IQ IR IS IT JE JM JO JP KE KG KH KI KM KN KP KR KW KY KZ LA LB LC
    LI LK LR LS LT LU LV LY MA MC MD ME MF MG MH MK ML MM MN MO MP MQ MR MS MT MU MV MW MX MY MZ NA
    NC NE NF NG NI NL NO NP NR NU NZ OM PA PE PF PG PH PK PL PM PN PR PS PT PW PY QA RE RO RS RU RW
    SA SB SC SD SE SG SH SI SJ SK SL SM SN SO SR SS ST SV SX SY SZ TC TD TF TG TH TJ TK TL TM TN TO
    TR TT TV TW TZ UA UG UM US UY UZ VA VC VE VG VI VN VU WF WS YE YT ZA ZM ZW
    """.split()  # noqa: SIM905 - two hundred quotes would hide the codes
)

# ISO 18245 divides the merchant category codes into these ranges, inclusive.
MERCHANT_CATEGORY_RANGES = (
    (700, 999),  # agricultural services
    (1500, 2999),  # contracted services
    (3000, 3999),  # reserved for private use: airlines, car rental, lodging
    (4000, 4799),  # transportation
    (4800, 4999),  # utilities and telecommunications
    (5000, 5599),  # retail outlets
    (5600, 5699),  # clothing outlets
    (5700, 7299),  # miscellaneous outlets, financial services, service providers
    (7300, 7999),  # business services, repair, entertainment
    (8000, 8999),  # professional services and membership organisations
    (9000, 9999),  # government services
)
